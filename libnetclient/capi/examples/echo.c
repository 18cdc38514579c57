/* An echo server, and its client, on the Axolotl stack: one thread, many connections.
 *
 *   echo serve PORT                      echoes everything, for ever
 *   echo ask HOST PORT COUNT BYTES       COUNT connections, BYTES on each, all compared
 *
 * A pipe of the kernel stands in the same nc_epoll: both commands stop when their standard input
 * ends. Build: cc echo.c $(pkg-config --cflags --libs netclient) */
#define _GNU_SOURCE
#include <netclient.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <linux/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HELD_MAX = 64 * 1024, EVENTS_MAX = 64 };

struct connection {
    int fd;
    int ended, established;
    size_t held;
    char bytes[HELD_MAX];
    uint64_t sent, got;
};

static void die(const char *what)
{
    fprintf(stderr, "echo: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void watch(int epoll, int operation, int fd, uint32_t events, void *with)
{
    struct epoll_event event = {.events = events, .data.ptr = with};
    if (nc_epoll_ctl(epoll, operation, fd, &event) < 0)
        die("epoll_ctl");
}

/* Moves bytes until neither direction can go on; 0 when the connection is over. */
static int echo(struct connection *c)
{
    for (;;) {
        int moved = 0;
        if (!c->ended && c->held < HELD_MAX) {
            ssize_t n = nc_read(c->fd, c->bytes + c->held, HELD_MAX - c->held);
            if (n == 0)
                c->ended = 1;
            else if (n > 0)
                c->held += n, moved = 1;
            else if (errno != EAGAIN)
                return 0;
        }
        if (c->held) {
            ssize_t n = nc_send(c->fd, c->bytes, c->held, MSG_NOSIGNAL);
            if (n > 0) {
                memmove(c->bytes, c->bytes + n, c->held - n);
                c->held -= n, moved = 1;
            } else if (errno != EAGAIN) {
                return 0;
            }
        }
        if (!moved)
            return !c->ended || c->held;
    }
}

static int serve(int port)
{
    struct sockaddr_in local = {.sin_family = AF_INET, .sin_port = htons(port)};
    int listener = nc_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), epoll = nc_epoll_create1(0), on = 1;
    if (listener < 0 || epoll < 0)
        die("socket");
    nc_setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    nc_setsockopt(listener, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (nc_bind(listener, (struct sockaddr *)&local, sizeof local) < 0 || nc_listen(listener, 1024) < 0)
        die("listen");
    watch(epoll, EPOLL_CTL_ADD, listener, EPOLLIN, NULL);
    watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN, &on);
    puts("listening");
    fflush(stdout);
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int n = nc_epoll_wait(epoll, events, EVENTS_MAX, -1);
        if (n < 0 && errno != EINTR)
            die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (events[i].data.ptr == &on)
                return 0;
            if (!c) {
                int fd;
                while ((fd = nc_accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    c = calloc(1, sizeof *c);
                    c->fd = fd;
                    watch(epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLOUT | EPOLLET, c);
                }
            } else if (!echo(c)) {
                nc_close(c->fd);
                free(c);
            }
        }
    }
}

static char byte_at(int connection, uint64_t at)
{
    return (char)(at * 2654435761u >> 13 ^ connection);
}

/* Writes what fits, compares what came; 1 when everything is back. */
static int ask_more(struct connection *c, int number, uint64_t bytes)
{
    char chunk[8192];
    ssize_t n;
    while (c->sent < bytes) {
        size_t len = bytes - c->sent < sizeof chunk ? bytes - c->sent : sizeof chunk;
        for (size_t i = 0; i < len; i++)
            chunk[i] = byte_at(number, c->sent + i);
        if ((n = nc_write(c->fd, chunk, len)) < 0) {
            if (errno != EAGAIN)
                die("write");
            break;
        }
        c->sent += n;
        if (c->sent == bytes && nc_shutdown(c->fd, SHUT_WR) < 0)
            die("shutdown");
    }
    while ((n = nc_read(c->fd, chunk, sizeof chunk)) > 0)
        for (ssize_t i = 0; i < n; i++, c->got++)
            if (chunk[i] != byte_at(number, c->got)) {
                fprintf(stderr, "echo: connection %d: wrong byte %llu\n", number, (unsigned long long)c->got);
                exit(1);
            }
    if (n < 0 && errno != EAGAIN)
        die("read");
    if (n == 0 && c->got != bytes) {
        fprintf(stderr, "echo: connection %d: %llu bytes came back\n", number, (unsigned long long)c->got);
        exit(1);
    }
    return n == 0;
}

static int ask(const char *host, int port, int count, uint64_t bytes)
{
    struct sockaddr_in remote = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct connection *all = calloc(count, sizeof *all);
    int epoll = nc_epoll_create1(EPOLL_CLOEXEC), done = 0;
    if (inet_pton(AF_INET, host, &remote.sin_addr) != 1 || epoll < 0)
        die(host);
    for (int i = 0; i < count; i++) {
        all[i].fd = nc_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (all[i].fd < 0)
            die("socket");
        if (nc_connect(all[i].fd, (struct sockaddr *)&remote, sizeof remote) < 0 && errno != EINPROGRESS)
            die("connect");
        watch(epoll, EPOLL_CTL_ADD, all[i].fd, EPOLLOUT, &all[i]);
    }
    while (done < count) {
        struct epoll_event events[EVENTS_MAX];
        int n = nc_epoll_wait(epoll, events, EVENTS_MAX, 60000);
        if (n == 0)
            errno = ETIMEDOUT, die("epoll_wait");
        for (int i = 0; i < n; i++) {
            struct connection *c = events[i].data.ptr;
            if (!c->established) {
                int error;
                socklen_t len = sizeof error;
                if (nc_getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &len) < 0 || (errno = error))
                    die("connect");
                c->established = 1;
                watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN | EPOLLOUT, c);
            }
            if (ask_more(c, (int)(c - all), bytes)) {
                struct tcp_info info;
                socklen_t len = sizeof info;
                if (nc_getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 || info.tcpi_bytes_received < bytes)
                    die("TCP_INFO");
                nc_close(c->fd);
                done++;
            } else if (c->sent == bytes) {
                watch(epoll, EPOLL_CTL_MOD, c->fd, EPOLLIN, c);
            }
        }
    }
    printf("%d connections, %llu bytes each, all equal\n", count, (unsigned long long)bytes);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "serve"))
        return serve(atoi(argv[2]));
    if (argc == 6 && !strcmp(argv[1], "ask"))
        return ask(argv[2], atoi(argv[3]), atoi(argv[4]), strtoull(argv[5], NULL, 10));
    fprintf(stderr, "usage: echo serve PORT | echo ask HOST PORT COUNT BYTES\n");
    return 2;
}
