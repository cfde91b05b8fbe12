// A sink for OTLP/HTTP on loopback, for benchmarks of what exports to it.
//
//   OTLPSink PORT
//
// Answers every POST with 200 and an empty body. Prints "ready" once it listens, and what has come at the end (SIGTERM).

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "OTLPSink: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int set_nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK); }

static void write_all(int fd, const char *bytes, size_t count) {
    while (count > 0) {
        ssize_t n = write(fd, bytes, count);
        if (n < 0) {
            if (errno == EINTR) continue;
            die("write");
        }
        bytes += n;
        count -= (size_t)n;
    }
}

struct client {
    int fd;
    char head[4096];
    size_t head_count;
    long body_left;
};

static volatile sig_atomic_t stopping;
static void stop(int signal) {
    (void)signal;
    stopping = 1;
}

int main(int argc, char **argv) {
    if (argc != 2 || atoi(argv[1]) <= 0) {
        fprintf(stderr, "usage: OTLPSink PORT\n");
        return 64;
    }
    int port = atoi(argv[1]);
    signal(SIGPIPE, SIG_IGN);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (bind(listener, (struct sockaddr *)&at, sizeof at) != 0) die("bind");
    if (listen(listener, 128) != 0) die("listen");
    set_nonblocking(listener);
    int poll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event);
    printf("ready\n");
    fflush(stdout);
    static char buffer[1 << 20];
    uint64_t requests = 0, bytes = 0;
    struct epoll_event found[64];
    static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n";
    while (!stopping) {
        int n = epoll_wait(poll, found, 64, 1000);
        for (int i = 0; i < n; i++) {
            struct client *c = found[i].data.ptr;
            if (c == NULL) {
                int fd = accept(listener, NULL, NULL);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                set_nonblocking(fd);
                c = calloc(1, sizeof *c);
                c->fd = fd;
                c->body_left = -1;
                event.data.ptr = c;
                epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            ssize_t got = c->body_left > 0
                ? read(c->fd, buffer, (size_t)c->body_left < sizeof buffer ? (size_t)c->body_left : sizeof buffer)
                : read(c->fd, c->head + c->head_count, sizeof c->head - 1 - c->head_count);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (got <= 0) {
                close(c->fd);
                free(c);
                continue;
            }
            bytes += (uint64_t)got;
            if (c->body_left > 0) {
                c->body_left -= got;
            } else {
                c->head_count += (size_t)got;
                c->head[c->head_count] = 0;
                char *end = strstr(c->head, "\r\n\r\n");
                if (end == NULL) continue;
                char *length = strcasestr(c->head, "\r\ncontent-length:");
                c->body_left = (length != NULL ? atol(length + 17) : 0)
                    - (long)(c->head_count - (size_t)(end + 4 - c->head));
            }
            if (c->body_left <= 0) {
                requests++;
                c->body_left = -1;
                c->head_count = 0;
                write_all(c->fd, answer, sizeof answer - 1);
            }
        }
    }
    printf("{\"requests\":%lu,\"bytes\":%lu}\n", requests, bytes);
    return 0;
}
