/*
 * Latency at a fixed rate, open loop: candidates are sent at the instants of a Poisson process, by turns client to
 * node and node to client, whatever has or has not arrived. Each is timed from the instant that it was due, so a
 * server that stalls is charged for every message that had to wait. The loop never sleeps; the load that is
 * reported is the share of its turns' time in which there was something to do.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dialect.h"
#include "load.h"
#include "util.h"

enum { DRAIN_TIMEOUT_S = 5 };

static uint64_t origin, due, end_of_warmup;
static uint64_t sent, received, busy;
static uint32_t *delays, *lags; /* nanoseconds */
static size_t delay_count, lag_count, capacity;

static void offered(struct conn *client)
{
    messages_scenario.offered(client);
}

static void candidate(struct conn *client, enum role receiver, uint64_t number)
{
    (void)client, (void)receiver;
    received++;
    if (number >= end_of_warmup && delay_count < capacity)
        delays[delay_count++] = (uint32_t)(conn_read_time() - origin - number);
}

/* Send whatever is due; returns the number of messages. */
static int send_due(uint64_t now)
{
    int count = 0;
    while (due <= now) {
        struct conn *client = &clients[sent / 2 % (uint64_t)options.clients];
        candidate_send(client, sent % 2 ? NODE : CLIENT, due);
        sent++;
        count++;
        if (due >= end_of_warmup && lag_count < capacity)
            lags[lag_count++] = (uint32_t)(now - due);
        due += (uint64_t)(-log(random_unit()) / options.rate * 1e9);
    }
    return count;
}

static void run_until(uint64_t end)
{
    uint64_t now = now_ns() - origin;
    while (now < end) {
        uint64_t before = now;
        int count = send_due(now);
        conn_flush();
        count += conn_turn(0);
        now = now_ns() - origin;
        if (count > 0)
            busy += now - before;
    }
}

static int ascending(const void *left, const void *right)
{
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double microseconds(const uint32_t *sorted, size_t count, double quantile)
{
    return sorted[(size_t)(quantile * (double)(count - 1))] * 1e-3;
}

static void drain(void)
{
    uint64_t deadline = now_ns() + DRAIN_TIMEOUT_S * 1000000000ull;
    while (received < sent) {
        load_turn(10);
        if (now_ns() > deadline)
            die("%" PRIu64 " of %" PRIu64 " messages never arrived", sent - received, sent);
    }
}

static void run(void)
{
    struct span span;
    load_open_all();
    capacity = (size_t)(options.rate * options.seconds * 1.5) + 1000;
    delays = xrealloc(NULL, capacity * sizeof *delays);
    lags = xrealloc(NULL, capacity * sizeof *lags);
    origin = now_ns();
    end_of_warmup = (uint64_t)(options.warmup * 1e9);
    run_until(end_of_warmup);
    busy = 0;
    uint64_t before = received;
    span_begin(&span);
    run_until(end_of_warmup + (uint64_t)(options.seconds * 1e9));
    span_end(&span);
    double rate = (double)(received - before) / span_seconds(&span);
    span.own_cpu = (double)busy * 1e-9;
    drain();
    qsort(delays, delay_count, sizeof *delays, ascending);
    qsort(lags, lag_count, sizeof *lags, ascending);
    printf("{\"rate\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,\"send_lag_p99_us\":%.1f,", rate,
           microseconds(delays, delay_count, 0.5), microseconds(delays, delay_count, 0.99),
           microseconds(delays, delay_count, 1), microseconds(lags, lag_count, 0.99));
    span_print(&span);
    printf("}\n");
}

static void unused(struct conn *client)
{
    (void)client;
}

const struct scenario latency_scenario = {
    .name = "latency", .run = run, .offered = offered, .answered = unused, .candidate = candidate, .closed = unused};
