#define _GNU_SOURCE
#include "conn.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "util.h"

enum { OP_TEXT = 1, OP_CLOSE = 8, OP_PING = 9, OP_PONG = 10 };
enum { BATCH = 256, CHUNK = 1 << 18, SOURCE_ADDRESSES = 64, MAX_HEADER = 8 };

static int epoll_fd;
static struct sockaddr_in server;
static in_port_t ports[2]; /* by role */
static const struct conn_events *owner;
static struct conn **dirty;
static size_t dirty_count, dirty_capacity;
static uint8_t chunk[CHUNK];
static uint64_t read_time;

void conn_init(const char *host, int port, int node_port, const struct conn_events *events)
{
    owner = events;
    server.sin_family = AF_INET;
    ports[CLIENT] = htons((uint16_t)port);
    ports[NODE] = htons((uint16_t)(node_port != 0 ? node_port : port));
    if (inet_pton(AF_INET, host, &server.sin_addr) != 1)
        die("%s is not an IPv4 address", host);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (epoll_fd < 0)
        die("epoll_create1: %s", strerror(errno));
}

uint64_t conn_read_time(void)
{
    return read_time;
}

static void watch(struct conn *conn, int operation, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = conn};
    if (epoll_ctl(epoll_fd, operation, conn->fd, &event) != 0)
        die("epoll_ctl: %s", strerror(errno));
}

/* --- output -------------------------------------------------------------------------------- */

static uint8_t *grow_output(struct conn *conn, size_t more)
{
    if (conn->out_length + more > conn->out_capacity) {
        conn->out_capacity = (conn->out_length + more) * 2;
        conn->out = xrealloc(conn->out, conn->out_capacity);
    }
    if (!conn->dirty) {
        if (dirty_count == dirty_capacity) {
            dirty_capacity = dirty_capacity ? dirty_capacity * 2 : 1024;
            dirty = xrealloc(dirty, dirty_capacity * sizeof *dirty);
        }
        dirty[dirty_count++] = conn;
        conn->dirty = true;
    }
    return conn->out + conn->out_length;
}

static void raw_send(struct conn *conn, const char *bytes, size_t length)
{
    memcpy(grow_output(conn, length), bytes, length);
    conn->out_length += length;
}

static uint8_t *reserve(struct conn *conn, int opcode, size_t length)
{
    if (length > 0xffff)
        die("a message of %zu bytes is more than this generator sends", length);
    uint8_t *frame = grow_output(conn, MAX_HEADER + length);
    frame[0] = (uint8_t)(0x80 | opcode);
    if (length < 126) {
        frame[1] = (uint8_t)(0x80 | length);
        return frame + 6;
    }
    frame[1] = 0x80 | 126;
    frame[2] = (uint8_t)(length >> 8);
    frame[3] = (uint8_t)length;
    return frame + 8;
}

uint8_t *conn_reserve(struct conn *conn, size_t length)
{
    return reserve(conn, OP_TEXT, length);
}

void conn_commit(struct conn *conn, uint8_t *payload, size_t length)
{
    uint32_t key = (uint32_t)(random64() >> 32);
    uint64_t wide = (uint64_t)key << 32 | key;
    size_t i = 0;
    memcpy(payload - 4, &key, 4);
    for (; i + 8 <= length; i += 8) {
        uint64_t word;
        memcpy(&word, payload + i, 8);
        word ^= wide;
        memcpy(payload + i, &word, 8);
    }
    for (; i < length; i++)
        payload[i] ^= ((const uint8_t *)&wide)[i & 7];
    conn->out_length = (size_t)(payload + length - conn->out);
}

static void send_frame(struct conn *conn, int opcode, const void *bytes, size_t length)
{
    uint8_t *payload = reserve(conn, opcode, length);
    if (length > 0)
        memcpy(payload, bytes, length);
    conn_commit(conn, payload, length);
}

void conn_send(struct conn *conn, const char *text, size_t length)
{
    send_frame(conn, OP_TEXT, text, length);
}

void conn_close(struct conn *conn)
{
    send_frame(conn, OP_CLOSE, "\x03\xe8", 2);
    conn->state = CLOSING;
}

static void flush(struct conn *conn)
{
    if (conn->state == CLOSED || conn->state == CONNECTING || conn->blocked)
        return;
    ssize_t sent = send(conn->fd, conn->out, conn->out_length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        if (conn->state == CLOSING) /* the server has gone first; the read side will say so */
            return;
        die("send: %s", strerror(errno));
    }
    size_t done = sent < 0 ? 0 : (size_t)sent;
    conn->out_length -= done;
    if (conn->out_length > 0) {
        memmove(conn->out, conn->out + done, conn->out_length);
        conn->blocked = true;
        watch(conn, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    }
}

void conn_flush(void)
{
    for (size_t i = 0; i < dirty_count; i++) {
        dirty[i]->dirty = false;
        if (dirty[i]->out_length > 0)
            flush(dirty[i]);
    }
    dirty_count = 0;
}

/* --- opening and closing ------------------------------------------------------------------- */

void conn_open(struct conn *conn, const char *target)
{
    static uint32_t opened;
    struct sockaddr_in source = {.sin_family = AF_INET};
    int on = 1;

    conn->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (conn->fd < 0)
        die("socket: %s", strerror(errno));
    setsockopt(conn->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (ntohl(server.sin_addr.s_addr) >> 24 == 127) {
        /* One loopback address has ports for some 28,000 connections only. */
        source.sin_addr.s_addr = htonl(0x7f000002u + opened++ % SOURCE_ADDRESSES);
        setsockopt(conn->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(conn->fd, (struct sockaddr *)&source, sizeof source) != 0)
            die("bind: %s", strerror(errno));
    }
    server.sin_port = ports[conn->role];
    if (connect(conn->fd, (struct sockaddr *)&server, sizeof server) != 0 && errno != EINPROGRESS)
        die("connect: %s", strerror(errno));
    conn->generation++;
    conn->state = CONNECTING;
    conn->blocked = true;
    conn->in_length = conn->out_length = 0;
    watch(conn, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);

    char request[512];
    int length = snprintf(request, sizeof request,
                          "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                          "Origin: http://localhost\r\nUser-Agent: loadgen\r\nSec-WebSocket-Version: 13\r\n"
                          "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                          target, ntohs(server.sin_port));
    raw_send(conn, request, (size_t)length);
}

static void ended(struct conn *conn)
{
    if (conn->state != CLOSING)
        die("the server dropped a connection (%s %u)", conn->role == NODE ? "node" : "client", conn->index);
    close(conn->fd); /* leaves the epoll set with it */
    conn->state = CLOSED;
    conn->out_length = conn->in_length = 0;
    owner->closed(conn);
}

static void writable(struct conn *conn)
{
    int error = 0;
    socklen_t size = sizeof error;
    if (conn->state == CONNECTING) {
        getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error != 0)
            die("connect: %s", strerror(error));
        conn->state = UPGRADING;
    }
    conn->blocked = false;
    watch(conn, EPOLL_CTL_MOD, EPOLLIN);
    if (conn->out_length > 0)
        flush(conn);
}

/* --- input --------------------------------------------------------------------------------- */

/* Take the answer to the upgrade; returns its length, 0 while it is unfinished. */
static size_t take_upgrade(struct conn *conn, const uint8_t *data, size_t length)
{
    const uint8_t *end = memmem(data, length, "\r\n\r\n", 4);
    if (end == NULL)
        return 0;
    if (length < 12 || memcmp(data, "HTTP/1.1 101", 12) != 0)
        die("the upgrade was refused: %.60s", (const char *)data);
    conn->state = OPEN;
    owner->upgraded(conn);
    return (size_t)(end + 4 - data);
}

static void take_frame(struct conn *conn, int opcode, const uint8_t *payload, size_t length)
{
    switch (opcode) {
    case OP_TEXT:
        owner->text(conn, payload, length);
        break;
    case OP_PING:
        send_frame(conn, OP_PONG, payload, length);
        break;
    case OP_CLOSE:
        if (conn->state != CLOSING)
            die("the server closed a connection (%s %u) with code %d", conn->role == NODE ? "node" : "client",
                conn->index, length >= 2 ? payload[0] << 8 | payload[1] : 1005);
        break;
    case OP_PONG:
        break;
    default:
        die("unexpected frame, opcode %d", opcode);
    }
}

/* Dispatch every whole frame; returns the number of bytes taken. */
static size_t take_frames(struct conn *conn, const uint8_t *data, size_t length)
{
    size_t at = 0;
    while (length - at >= 2) {
        const uint8_t *frame = data + at;
        size_t header = 2, size = frame[1];
        if (frame[1] & 0x80 || !(frame[0] & 0x80))
            die("the server sent a masked or fragmented frame");
        if (size == 126) {
            header = 4;
            if (length - at < header)
                break;
            size = (size_t)frame[2] << 8 | frame[3];
        } else if (size == 127) {
            die("the server sent a frame of more than 64 KiB");
        }
        if (length - at < header + size)
            break;
        take_frame(conn, frame[0] & 15, frame + header, size);
        at += header + size;
    }
    return at;
}

static void readable(struct conn *conn)
{
    size_t have = conn->in_length, at = 0;
    if (have > 0)
        memcpy(chunk, conn->in, have);
    ssize_t got = recv(conn->fd, chunk + have, CHUNK - have, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got < 0 && !(errno == ECONNRESET && conn->state == CLOSING))
        die("recv: %s", strerror(errno));
    if (got <= 0) {
        ended(conn);
        return;
    }
    read_time = now_ns();
    size_t length = have + (size_t)got;
    if (conn->state == UPGRADING)
        at = take_upgrade(conn, chunk, length);
    if (conn->state == OPEN || conn->state == CLOSING)
        at += take_frames(conn, chunk + at, length - at);
    conn->in_length = length - at;
    if (conn->in_length > 0) {
        conn->in = xrealloc(conn->in, conn->in_length);
        memcpy(conn->in, chunk + at, conn->in_length);
    }
}

int conn_turn(int timeout_ms)
{
    struct epoll_event events[BATCH];
    int count = epoll_wait(epoll_fd, events, BATCH, timeout_ms);
    if (count < 0 && errno != EINTR)
        die("epoll_wait: %s", strerror(errno));
    for (int i = 0; i < count; i++) {
        struct conn *conn = events[i].data.ptr;
        if (events[i].events & EPOLLOUT)
            writable(conn);
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            readable(conn);
    }
    conn_flush();
    return count < 0 ? 0 : count;
}
