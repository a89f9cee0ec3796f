/*
 * Load generator for signaling relays. It plays clients and nodes on one thread and prints one JSON object with
 * what it measured and its own load, so that a result for which the generator was the limit can be seen.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dialect.h"
#include "load.h"
#include "util.h"

struct options options = {
    .dialect = &bridge_dialect,
    .scenario = "messages",
    .host = "127.0.0.1",
    .credential = "",
    .node_credential = "",
    .pool = "default",
    .clients = 500,
    .nodes = 8,
    .window = 4,
    .size = 253,
    .rate = 20000,
    .warmup = 1,
    .seconds = 3,
};

enum { WHOLE, REAL, TEXT };

static const struct setting {
    const char *name;
    int type;
    void *value;
    double least, most;
} settings[] = {
    {"scenario", TEXT, &options.scenario, 0, 0},
    {"host", TEXT, &options.host, 0, 0},
    {"port", WHOLE, &options.port, 1, 65535},
    {"node-port", WHOLE, &options.node_port, 1, 65535},
    {"credential", TEXT, &options.credential, 0, 0},
    {"node-credential", TEXT, &options.node_credential, 0, 0},
    {"pool", TEXT, &options.pool, 0, 0},
    {"clients", WHOLE, &options.clients, 1, 100000},
    {"nodes", WHOLE, &options.nodes, 1, 10000},
    {"capacity", WHOLE, &options.capacity, 1, 100000},
    {"window", WHOLE, &options.window, 1, 1000},
    {"size", WHOLE, &options.size, 1, 16384},
    {"rate", REAL, &options.rate, 1, 1e7},
    {"warmup", REAL, &options.warmup, 0, 3600},
    {"seconds", REAL, &options.seconds, 0.1, 3600},
    {"server-pid", WHOLE, &options.server_pid, 1, 1e9},
};

static const struct setting *setting_of(const char *argument)
{
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        if (strncmp(argument, "--", 2) == 0 && strcmp(argument + 2, settings[i].name) == 0)
            return &settings[i];
    return NULL;
}

static void set(const struct setting *setting, const char *text)
{
    char *end;
    double number = strtod(text, &end);
    if (setting->type == TEXT) {
        *(const char **)setting->value = text;
        return;
    }
    if (*text == 0 || *end != 0 || !(number >= setting->least && number <= setting->most))
        die("--%s: expected a number from %g to %g", setting->name, setting->least, setting->most);
    if (setting->type == WHOLE)
        *(int *)setting->value = (int)number;
    else
        *(double *)setting->value = number;
}

static void parse_options(int count, char **arguments)
{
    for (int i = 1; i < count; i += 2) {
        const struct setting *setting = setting_of(arguments[i]);
        if (i + 1 == count)
            die("%s needs a value", arguments[i]);
        if (setting != NULL)
            set(setting, arguments[i + 1]);
        else if (strcmp(arguments[i], "--dialect") != 0)
            die("unknown option %s", arguments[i]);
        else if (strcmp(arguments[i + 1], "peerjs") == 0)
            options.dialect = &peerjs_dialect;
        else if (strcmp(arguments[i + 1], "bridge") != 0)
            die("--dialect: expected bridge or peerjs");
    }
    if (options.port == 0)
        die("--port is needed");
    options.run = (uint32_t)getpid() & 0xffff;
    if (options.capacity == 0) /* exactly as much as is needed, so that every node gets its share */
        options.capacity = (options.clients + options.nodes - 1) / options.nodes;
}

int main(int count, char **arguments)
{
    static const struct scenario *const scenarios[] = {&messages_scenario, &setups_scenario, &latency_scenario,
                                                       &idle_scenario};
    parse_options(count, arguments);
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++) {
        if (strcmp(options.scenario, scenarios[i]->name) != 0)
            continue;
        load_init(scenarios[i]);
        scenarios[i]->run();
        fflush(stdout);
        load_close_all();
        return 0;
    }
    die("--scenario: expected messages, setups, latency or idle");
}
