#include "load.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "dialect.h"
#include "util.h"

enum { OPENING_AT_ONCE = 128, READY_TIMEOUT_S = 60, CLOSE_TIMEOUT_S = 20 };
#define HEARTBEAT_NS 2000000000u

struct conn *clients, *nodes;
int clients_ready;
long sessions_ended;
static int nodes_ready;
static bool finishing;
static const struct scenario *scenario;
static char text[TEXT_MAX];

static void send_text(struct conn *conn, int length)
{
    if (length > 0)
        conn_send(conn, text, (size_t)length);
}

static void on_upgraded(struct conn *conn)
{
    send_text(conn, options.dialect->hello(conn, text));
}

static void node_got_offer(struct conn *node, const struct event *event)
{
    struct conn *client = &clients[event->client];
    if (event->address == NULL || event->address_length >= sizeof client->session)
        die("an offer reached the node without a session");
    client->node = node;
    client->session_length = event->address_length;
    memcpy(client->session, event->address, event->address_length);
    client->session[event->address_length] = 0;
    send_text(node, options.dialect->answer(client, text));
    scenario->offered(client);
}

static void node_event(struct conn *node, const struct event *event)
{
    struct conn *client;
    switch (event->kind) {
    case ACCEPTED:
        nodes_ready++;
        break;
    case OFFER:
        node_got_offer(node, event);
        break;
    case CANDIDATE:
        client = &clients[event->client];
        if (client->node != node || event->address_length != client->session_length ||
            memcmp(event->address, client->session, client->session_length) != 0)
            die("a candidate reached the wrong node or session");
        scenario->candidate(client, NODE, event->number);
        break;
    case ENDED:
        sessions_ended++;
        break;
    default:
        break;
    }
}

static void client_event(struct conn *client, const struct event *event)
{
    switch (event->kind) {
    case ACCEPTED:
        if (scenario->authenticate_only)
            clients_ready++;
        else if (options.dialect->assigns)
            send_text(client, options.dialect->start(client, text));
        else
            goto offer;
        break;
    case ASSIGNED:
    offer:
        send_text(client, options.dialect->offer(client, text));
        break;
    case ANSWER:
        clients_ready++;
        scenario->answered(client);
        break;
    case CANDIDATE:
        if (event->client != client->index)
            die("a candidate reached the wrong client");
        scenario->candidate(client, CLIENT, event->number);
        break;
    default:
        break;
    }
}

static void on_text(struct conn *conn, const uint8_t *message, size_t length)
{
    if (finishing) /* what was still under way */
        return;
    struct event event = options.dialect->parse(message, length);
    if (event.kind == REFUSED)
        die("refused: %.*s", (int)(length < 200 ? length : 200), (const char *)message);
    if (conn->role == NODE)
        node_event(conn, &event);
    else
        client_event(conn, &event);
}

static void on_closed(struct conn *conn)
{
    if (!finishing)
        scenario->closed(conn);
}

static struct conn *table(enum role role, int count)
{
    struct conn *conns = calloc((size_t)count, sizeof *conns);
    if (conns == NULL)
        die("out of memory");
    for (int i = 0; i < count; i++) {
        conns[i].role = role;
        conns[i].index = (uint32_t)i;
    }
    return conns;
}

void load_init(const struct scenario *chosen)
{
    static const struct conn_events events = {on_upgraded, on_text, on_closed};
    scenario = chosen;
    clients = table(CLIENT, options.clients);
    nodes = table(NODE, options.nodes);
    conn_init(options.host, options.port, options.node_port, &events);
    candidates_init();
}

void load_open(struct conn *conn)
{
    char target[256];
    options.dialect->target(conn, target);
    conn_open(conn, target);
}

void load_turn(int timeout_ms)
{
    static uint64_t next_heartbeat;
    uint64_t now = now_ns();
    if (now >= next_heartbeat) {
        next_heartbeat = now + HEARTBEAT_NS;
        for (int i = 0; i < options.nodes; i++)
            if (nodes[i].state == OPEN)
                send_text(&nodes[i], options.dialect->heartbeat(text));
        conn_flush();
    }
    conn_turn(timeout_ms);
}

static void open_until_ready(struct conn *conns, int count, const int *ready, const char *what)
{
    uint64_t deadline = now_ns() + READY_TIMEOUT_S * 1000000000ull;
    for (int opened = 0; *ready < count; load_turn(100)) {
        while (opened < count && opened - *ready < OPENING_AT_ONCE)
            load_open(&conns[opened++]);
        if (now_ns() > deadline)
            die("only %d of %d %s became ready in %d s", *ready, count, what, READY_TIMEOUT_S);
    }
}

void load_open_nodes(void)
{
    open_until_ready(nodes, options.nodes, &nodes_ready, "nodes");
}

void load_open_all(void)
{
    load_open_nodes();
    open_until_ready(clients, options.clients, &clients_ready, "clients");
}

static void close_conns(struct conn *conns, int count)
{
    uint64_t deadline = now_ns() + CLOSE_TIMEOUT_S * 1000000000ull;
    for (int i = 0; i < count; i++)
        if (conns[i].state == OPEN)
            conn_close(&conns[i]);
    conn_flush();
    for (int i = 0; i < count;) {
        if (conns[i].state == CLOSED) {
            i++;
            continue;
        }
        load_turn(100);
        if (now_ns() > deadline)
            die("a connection was not closed in %d s", CLOSE_TIMEOUT_S);
    }
}

void load_close_all(void)
{
    finishing = true;
    close_conns(clients, options.clients);
    close_conns(nodes, options.nodes);
}

void span_begin(struct span *span)
{
    span->from = now_ns();
    span->own_cpu = own_cpu_seconds();
    span->server_cpu = cpu_seconds_of(options.server_pid);
}

void span_end(struct span *span)
{
    span->to = now_ns();
    span->own_cpu = own_cpu_seconds() - span->own_cpu;
    span->server_cpu = cpu_seconds_of(options.server_pid) - span->server_cpu;
}

double span_seconds(const struct span *span)
{
    return (double)(span->to - span->from) * 1e-9;
}

void span_print(const struct span *span)
{
    double seconds = span_seconds(span);
    printf("\"seconds\":%.3f,\"generator_load\":%.3f,\"server_load\":%.3f", seconds, span->own_cpu / seconds,
           span->server_cpu / seconds);
}
