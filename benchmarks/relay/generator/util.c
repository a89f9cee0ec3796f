#define _GNU_SOURCE
#include "util.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

void die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

double own_cpu_seconds(void)
{
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

double cpu_seconds_of(pid_t pid)
{
    clockid_t clock;
    struct timespec time;
    if (pid == 0)
        return 0;
    if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) != 0)
        die("the server (process %d) is gone", (int)pid);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

uint64_t random64(void)
{
    static uint64_t state = 0x9e3779b97f4a7c15u;
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1du;
}

double random_unit(void)
{
    return ((double)(random64() >> 11) + 1) * 0x1p-53;
}

void hex_write(uint8_t *to, uint64_t value, int digits)
{
    for (int i = digits - 1; i >= 0; i--, value >>= 4)
        to[i] = (uint8_t)"0123456789abcdef"[value & 15];
}

uint64_t hex_read(const uint8_t *from, int digits)
{
    uint64_t value = 0;
    for (int i = 0; i < digits; i++) {
        uint8_t c = from[i];
        unsigned digit = c <= '9' ? (unsigned)(c - '0') : (unsigned)(c - 'a' + 10);
        if (digit > 15)
            die("a relayed message came back damaged: %.*s", digits, (const char *)from);
        value = value << 4 | digit;
    }
    return value;
}

void *xrealloc(void *block, size_t size)
{
    void *moved = realloc(block, size);
    if (moved == NULL)
        die("out of memory");
    return moved;
}
