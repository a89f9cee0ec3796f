/* Clocks, numbers and the one way to give up. */
#ifndef UTIL_H
#define UTIL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Print one line to stderr and exit with status 1. */
_Noreturn void die(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t now_ns(void);

/* CPU seconds (user and system, all threads) that this process has used. */
double own_cpu_seconds(void);

/* The same of another process, from /proc; 0 when pid is 0. */
double cpu_seconds_of(pid_t pid);

/* xorshift64*: fast, seeded with a constant so that every run sends the same load. */
uint64_t random64(void);

/* Uniform in (0, 1]. */
double random_unit(void);

/* `digits` lower-case hexadecimal digits of `value`, without a terminating zero. */
void hex_write(uint8_t *to, uint64_t value, int digits);
uint64_t hex_read(const uint8_t *from, int digits);

void *xrealloc(void *block, size_t size);

#endif
