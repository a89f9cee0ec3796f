/* Memory: authenticated connections that do nothing, held until standard input ends. */
#include <poll.h>
#include <stdio.h>
#include <unistd.h>

#include "dialect.h"
#include "load.h"
#include "util.h"

static void run(void)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;
    load_open_all();
    printf("{\"ready\":%d}\n", clients_ready);
    fflush(stdout);
    do
        load_turn(50);
    while (poll(&input, 1, 0) == 0 || read(STDIN_FILENO, &byte, 1) > 0);
}

static void unused(struct conn *client)
{
    (void)client;
}

static void unexpected(struct conn *client, enum role receiver, uint64_t number)
{
    (void)receiver, (void)number;
    die("client %u: a candidate without a session", client->index);
}

const struct scenario idle_scenario = {.name = "idle",
                                       .run = run,
                                       .authenticate_only = true,
                                       .offered = unused,
                                       .answered = unused,
                                       .candidate = unexpected,
                                       .closed = unused};
