/* Throughput: every client keeps `window` candidates under way; the node sends each one back. */
#include <inttypes.h>
#include <stdio.h>

#include "dialect.h"
#include "load.h"
#include "util.h"

static uint64_t relayed;

static void offered(struct conn *client)
{
    char text[TEXT_MAX];
    int length = options.dialect->connected(client, text);
    if (length > 0)
        conn_send(client->node, text, (size_t)length);
}

static void candidate(struct conn *client, enum role receiver, uint64_t number)
{
    relayed++;
    if (receiver == NODE) {
        candidate_send(client, NODE, number);
        return;
    }
    if (number != client->received++)
        die("client %u: candidate %" PRIu64 " came back out of order", client->index, number);
    candidate_send(client, CLIENT, client->sent++);
}

static void run_for(double seconds)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9), before = relayed;
    while (now_ns() < until)
        load_turn(100);
    if (seconds > 0 && relayed == before)
        die("nothing was relayed in %.1f s", seconds);
}

static void run(void)
{
    struct span span;
    load_open_all();
    for (int i = 0; i < options.clients; i++)
        for (int k = 0; k < options.window; k++)
            candidate_send(&clients[i], CLIENT, clients[i].sent++);
    conn_flush();
    run_for(options.warmup);
    uint64_t before = relayed;
    span_begin(&span);
    run_for(options.seconds);
    span_end(&span);
    printf("{\"rate\":%.1f,", (double)(relayed - before) / span_seconds(&span));
    span_print(&span);
    printf("}\n");
}

static void unused(struct conn *client)
{
    (void)client;
}

const struct scenario messages_scenario = {
    .name = "messages", .run = run, .offered = offered, .answered = unused, .candidate = candidate, .closed = unused};
