/* Whole sessions, one after another on each client: connect, authenticate, start, offer, answer, candidates, close. */
#include <inttypes.h>
#include <stdio.h>

#include "dialect.h"
#include "load.h"
#include "util.h"

enum { CANDIDATES = 6, DRAIN_TIMEOUT_S = 10 };

static long completed;
static int open_clients;
static bool stopping;

static void send_candidates(struct conn *client, enum role sender)
{
    for (int i = 0; i < CANDIDATES; i++)
        candidate_send(client, sender, (uint64_t)i);
}

static void offered(struct conn *client)
{
    send_candidates(client, NODE);
}

static void answered(struct conn *client)
{
    send_candidates(client, CLIENT);
}

static void candidate(struct conn *client, enum role receiver, uint64_t number)
{
    int *arrived = receiver == NODE ? &client->at_node : &client->at_client;
    if (number != (uint64_t)(*arrived)++)
        die("client %u: candidate %" PRIu64 " arrived out of order", client->index, number);
    if (client->at_node == CANDIDATES && client->at_client == CANDIDATES)
        conn_close(client);
}

static void begin(struct conn *client)
{
    client->at_node = client->at_client = 0;
    client->node = NULL;
    load_open(client);
    open_clients++;
}

static void closed(struct conn *client)
{
    completed++;
    open_clients--;
    if (!stopping)
        begin(client);
}

static void run_for(double seconds)
{
    uint64_t until = now_ns() + (uint64_t)(seconds * 1e9);
    long before = completed;
    while (now_ns() < until)
        load_turn(100);
    if (seconds > 0 && completed == before)
        die("no session was set up in %.1f s", seconds);
}

/* Let the sessions under way finish, and see that the nodes were told of every end. */
static void drain(void)
{
    uint64_t deadline = now_ns() + DRAIN_TIMEOUT_S * 1000000000ull;
    stopping = true;
    while (open_clients > 0 || (options.dialect->ends && sessions_ended != completed)) {
        load_turn(100);
        if (now_ns() > deadline)
            die("%d sessions did not finish; %ld were set up, the nodes were told the end of %ld", open_clients,
                completed, sessions_ended);
    }
}

static void run(void)
{
    struct span span;
    load_open_nodes();
    for (int i = 0; i < options.clients; i++)
        begin(&clients[i]);
    run_for(options.warmup);
    long before = completed;
    span_begin(&span);
    run_for(options.seconds);
    span_end(&span);
    double rate = (double)(completed - before) / span_seconds(&span);
    drain();
    printf("{\"rate\":%.1f,", rate);
    span_print(&span);
    printf("}\n");
}

const struct scenario setups_scenario = {
    .name = "setups", .run = run, .offered = offered, .answered = answered, .candidate = candidate, .closed = closed};
