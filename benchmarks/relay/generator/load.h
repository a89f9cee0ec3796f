/* Sessions from connect to answer, which every scenario needs, and the measuring around them. */
#ifndef LOAD_H
#define LOAD_H

#include "conn.h"

struct scenario {
    const char *name;
    void (*run)(void);
    bool authenticate_only;
    void (*offered)(struct conn *client);  /* this client's node has got the offer and queued the answer */
    void (*answered)(struct conn *client);
    void (*candidate)(struct conn *client, enum role receiver, uint64_t number);
    void (*closed)(struct conn *client);
};

extern const struct scenario messages_scenario, setups_scenario, latency_scenario, idle_scenario;

extern struct conn *clients, *nodes;
extern int clients_ready; /* authenticated, where the scenario stops there, else answered */
extern long sessions_ended;  /* as told to the nodes */

void load_init(const struct scenario *scenario);

/* Register every node, then open every client, some hundred at a time, until all are ready. */
void load_open_all(void);
void load_open_nodes(void);
void load_open(struct conn *conn);

/* Close every client, then every node, as at the end of a day; wait until the server has answered. */
void load_close_all(void);

/* One turn of the loop, with the nodes' heartbeats. */
void load_turn(int timeout_ms);

/* A span of time and what it cost; the generator's load and the server's are shares of one core. */
struct span {
    uint64_t from, to;
    double own_cpu, server_cpu;
};

void span_begin(struct span *span);
void span_end(struct span *span);
double span_seconds(const struct span *span);

/* The members that every result has, without braces. */
void span_print(const struct span *span);

#endif
