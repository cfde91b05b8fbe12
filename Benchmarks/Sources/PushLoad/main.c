// Load for push servers over HTTP/1.1 on Linux: many event streams, a paced publisher, and a sink for OTLP.
//
//   PushLoad listen  --port P --path PATH --connections N [--source-addresses K]
//       Opens N event streams. Prints "ready N" once every one has its response head. Then reads commands from stdin:
//         start    forget what was counted
//         report   print the counts since `start` as one JSON line
//         quit
//   PushLoad publish --port P --path PATH --rate R --seconds S [--connections C] [--size B] [--drain S]
//       POSTs R events a second, evenly; prints a JSON line at the end.
//   PushLoad sink    --port P
//       Answers every POST with 200 and an empty body; prints the bytes at the end (SIGTERM).
//
// A payload begins with '@', the nanoseconds since 1970 at which it was due (19 digits), and '@'. Due, not sent: a
// server that keeps the publisher waiting does not look faster for it.

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
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "PushLoad: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(clockid_t clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static const char *option(int argc, char **argv, const char *name, const char *fallback) {
    for (int i = 2; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return fallback;
}

static long number(int argc, char **argv, const char *name, const char *fallback) {
    const char *text = option(argc, argv, name, fallback);
    if (text == NULL) {
        fprintf(stderr, "PushLoad: %s is missing\n", name);
        exit(64);
    }
    return atol(text);
}

static int set_nonblocking(int fd) { return fcntl(fd, F_SETFL, fcntl(fd, F_GETFL, 0) | O_NONBLOCK); }

static int connect_to(int port, int source) {
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) die("socket");
    if (source > 0) {
        struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)source)};
        int on = 1;
        setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
        if (bind(fd, (struct sockaddr *)&from, sizeof from) != 0) die("bind");
    }
    struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&to, sizeof to) != 0) die("connect");
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

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

// MARK: Latencies, in buckets of 1/64 of an octave

#define BUCKETS (64 * 64)
static uint64_t buckets[BUCKETS];
static uint64_t events, bytes_received, first_ns, last_ns, worst_ns;

static int bucket_of(uint64_t ns) {
    if (ns < 64) return (int)ns;
    int top = 63 - __builtin_clzll(ns);
    return (top - 5) * 64 + (int)((ns >> (top - 6)) & 63);
}

static double value_of(int bucket) {
    if (bucket < 64) return bucket;
    int top = bucket / 64 + 5;
    return (double)((uint64_t)(64 + bucket % 64) << (top - 6)) * (1 + 1.0 / 128);
}

static double quantile_ms(double q) {
    uint64_t rank = (uint64_t)(q * (double)events + 0.999999), seen = 0;
    for (int i = 0; i < BUCKETS; i++) {
        seen += buckets[i];
        if (seen >= rank && seen > 0) return value_of(i) / 1e6;
    }
    return 0;
}

static void observe(uint64_t due, uint64_t now) {
    uint64_t ns = now > due ? now - due : 0;
    int bucket = bucket_of(ns);
    buckets[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
    if (events++ == 0) first_ns = now;
    last_ns = now;
    if (ns > worst_ns) worst_ns = ns;
}

// MARK: listen

struct stream {
    int fd;
    // 0: looking for '@'; 1 to 19: digits read; 20: the closing '@' must follow.
    uint8_t digits;
    // "\r\n\r\n" seen so far; 4: in the body.
    uint8_t head;
    char status[16];
    uint8_t status_count;
    uint64_t value;
};

static void scan(struct stream *s, const unsigned char *at, const unsigned char *end, uint64_t now) {
    while (at < end) {
        if (s->digits == 0) {
            at = memchr(at, '@', (size_t)(end - at));
            if (at == NULL) return;
            at++;
            s->digits = 1;
            s->value = 0;
        } else if (s->digits <= 19) {
            if (*at >= '0' && *at <= '9') {
                s->value = s->value * 10 + (*at - '0');
                s->digits++;
                at++;
            } else {
                s->digits = 0;
            }
        } else {
            if (*at == '@') {
                observe(s->value, now);
                at++;
            }
            s->digits = 0;
        }
    }
}

static int run_listen(int argc, char **argv) {
    int port = (int)number(argc, argv, "--port", NULL);
    long count = number(argc, argv, "--connections", NULL);
    long sources = number(argc, argv, "--source-addresses", "1");
    const char *path = option(argc, argv, "--path", "/");
    char request[1024];
    int request_count = snprintf(
        request, sizeof request, "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept: text/event-stream\r\n\r\n", path,
        port);
    struct stream *streams = calloc((size_t)count, sizeof *streams);
    int poll = epoll_create1(0);
    if (poll < 0) die("epoll_create1");
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll, EPOLL_CTL_ADD, 0, &input);

    static unsigned char buffer[1 << 18];
    long opened = 0, ready = 0, closed = 0;
    int announced = 0;
    char line[256];
    size_t line_count = 0;
    struct epoll_event found[512];
    uint64_t stalled_since = now_ns(CLOCK_MONOTONIC);
    while (1) {
        // At most 128 connections wait for their head: no backlog overflows.
        while (opened < count && opened - ready < 128) {
            struct stream *s = &streams[opened];
            s->fd = connect_to(port, sources > 1 ? (int)(opened % sources) : 0);
            write_all(s->fd, request, (size_t)request_count);
            set_nonblocking(s->fd);
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
            if (epoll_ctl(poll, EPOLL_CTL_ADD, s->fd, &event) != 0) die("epoll_ctl");
            opened++;
        }
        if (!announced && ready == count) {
            announced = 1;
            printf("ready %ld\n", ready);
            fflush(stdout);
        }
        if (!announced && now_ns(CLOCK_MONOTONIC) - stalled_since > 20000000000u) {
            fprintf(stderr, "PushLoad: %ld of %ld streams have opened, and then none for 20 s\n", ready, count);
            return 1;
        }
        int n = epoll_wait(poll, found, 512, 1000);
        for (int i = 0; i < n; i++) {
            struct stream *s = found[i].data.ptr;
            if (s == NULL) {
                ssize_t got = read(0, line + line_count, sizeof line - line_count - 1);
                if (got <= 0) return 0;
                line_count += (size_t)got;
                line[line_count] = 0;
                char *newline;
                while ((newline = strchr(line, '\n')) != NULL) {
                    *newline = 0;
                    if (strcmp(line, "start") == 0) {
                        memset(buckets, 0, sizeof buckets);
                        events = bytes_received = first_ns = last_ns = worst_ns = 0;
                        printf("started\n");
                    } else if (strcmp(line, "report") == 0) {
                        printf(
                            "{\"events\":%lu,\"bytes\":%lu,\"seconds\":%.3f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
                            "\"max_ms\":%.3f,\"closed\":%ld}\n",
                            events, bytes_received, (double)(last_ns - first_ns) / 1e9, quantile_ms(0.5),
                            quantile_ms(0.99), (double)worst_ns / 1e6, closed);
                    } else if (strcmp(line, "quit") == 0) {
                        return 0;
                    }
                    fflush(stdout);
                    line_count -= (size_t)(newline + 1 - line);
                    memmove(line, newline + 1, line_count + 1);
                }
                continue;
            }
            ssize_t got = read(s->fd, buffer, sizeof buffer);
            if (got < 0 && (errno == EAGAIN || errno == EINTR)) continue;
            if (got <= 0) {
                if (!announced) {
                    fprintf(stderr, "PushLoad: a stream was closed before it opened: %.15s\n", s->status);
                    return 1;
                }
                close(s->fd);
                closed++;
                continue;
            }
            bytes_received += (uint64_t)got;
            unsigned char *at = buffer, *end = buffer + got;
            while (s->head < 4 && at < end) {
                if (s->status_count < sizeof s->status - 1) s->status[s->status_count++] = (char)*at;
                int expected = s->head % 2 == 0 ? '\r' : '\n';
                s->head = *at == expected ? s->head + 1 : (*at == '\r' ? 1 : 0);
                at++;
                if (s->head == 4) {
                    if (strncmp(s->status, "HTTP/1.1 200", 12) != 0) {
                        fprintf(stderr, "PushLoad: the server answered %.15s\n", s->status);
                        return 1;
                    }
                    ready++;
                    stalled_since = now_ns(CLOCK_MONOTONIC);
                }
            }
            // One look at the clock for each read: what was read together arrived together.
            if (at < end) scan(s, at, end, now_ns(CLOCK_REALTIME));
        }
    }
}

// MARK: publish

struct producer {
    int fd;
    int busy;
    // Of the response: bytes of the head, or of the body, still to come.
    char head[2048];
    size_t head_count;
    long body_left;
    uint64_t sent_ns;
};

static int run_publish(int argc, char **argv) {
    int port = (int)number(argc, argv, "--port", NULL);
    double rate = atof(option(argc, argv, "--rate", "1"));
    double seconds = atof(option(argc, argv, "--seconds", "1"));
    double drain = atof(option(argc, argv, "--drain", "10"));
    long count = number(argc, argv, "--connections", "8");
    long size = number(argc, argv, "--size", "256");
    const char *path = option(argc, argv, "--path", "/");
    uint64_t total = (uint64_t)(rate * seconds + 0.5);
    if (size < 21) size = 21;
    struct producer *producers = calloc((size_t)count, sizeof *producers);
    int poll = epoll_create1(0);
    for (long i = 0; i < count; i++) {
        producers[i].fd = connect_to(port, 0);
        set_nonblocking(producers[i].fd);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &producers[i]};
        epoll_ctl(poll, EPOLL_CTL_ADD, producers[i].fd, &event);
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event tick = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(poll, EPOLL_CTL_ADD, timer, &tick);

    char *request = malloc((size_t)size + 1024);
    int head = snprintf(
        request, 1024,
        "POST %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: text/plain\r\nContent-Length: %ld\r\n\r\n", path, port,
        size);
    memset(request + head, 'x', (size_t)size);

    uint64_t start = now_ns(CLOCK_MONOTONIC), wall = now_ns(CLOCK_REALTIME);
    uint64_t sent = 0, answered = 0, refused = 0, answer_ns = 0, answer_max = 0;
    uint64_t deadline = start + (uint64_t)((seconds + drain) * 1e9);
    struct epoll_event found[64];
    while (answered + refused < total) {
        uint64_t now = now_ns(CLOCK_MONOTONIC);
        if (now > deadline) break;
        for (long i = 0; i < count && sent < total; i++) {
            struct producer *p = &producers[i];
            uint64_t due = (uint64_t)((double)sent * 1e9 / rate);
            if (start + due > now) break;
            if (p->busy) continue;
            snprintf(request + head, 22, "@%019lu", wall + due);
            request[head + 20] = '@';
            p->busy = 1;
            p->head_count = 0;
            p->body_left = -1;
            p->sent_ns = now;
            write_all(p->fd, request, (size_t)(head + size));
            sent++;
        }
        if (sent < total) {
            uint64_t due = start + (uint64_t)((double)sent * 1e9 / rate);
            // When it is due already, all producers are busy: an answer is what comes next.
            struct itimerspec at = {0};
            if (due > now) at = (struct itimerspec){
                .it_value = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
        }
        int n = epoll_wait(poll, found, 64, 100);
        for (int i = 0; i < n; i++) {
            struct producer *p = found[i].data.ptr;
            if (p == NULL) {
                uint64_t ticks;
                (void)!read(timer, &ticks, 8);
                continue;
            }
            ssize_t got = read(p->fd, p->head + p->head_count, sizeof p->head - 1 - p->head_count);
            if (got < 0 && errno == EAGAIN) continue;
            if (got <= 0) {
                fprintf(stderr, "PushLoad: the server closed a producer's connection\n");
                return 1;
            }
            p->head_count += (size_t)got;
            p->head[p->head_count] = 0;
            char *end = strstr(p->head, "\r\n\r\n");
            if (end == NULL) continue;
            char *length = strcasestr(p->head, "\r\ncontent-length:");
            if (length != NULL && length < end) {
                size_t body = (size_t)atol(length + 17);
                if (p->head_count < (size_t)(end + 4 - p->head) + body) continue;
            } else if (strcasestr(p->head, "chunked") != NULL && strstr(end, "\r\n0\r\n") == NULL) {
                continue;
            }
            uint64_t took = now_ns(CLOCK_MONOTONIC) - p->sent_ns;
            answer_ns += took;
            if (took > answer_max) answer_max = took;
            if (p->head[9] == '2') answered++;
            else refused++;
            p->busy = 0;
        }
    }
    double elapsed = (double)(now_ns(CLOCK_MONOTONIC) - start) / 1e9;
    printf(
        "{\"due\":%lu,\"sent\":%lu,\"answered\":%lu,\"refused\":%lu,\"seconds\":%.3f,\"answer_mean_ms\":%.3f,"
        "\"answer_max_ms\":%.3f}\n",
        total, sent, answered, refused, elapsed, answered ? (double)answer_ns / (double)(answered + refused) / 1e6 : 0,
        (double)answer_max / 1e6);
    return 0;
}

// MARK: sink

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

static int run_sink(int argc, char **argv) {
    int port = (int)number(argc, argv, "--port", NULL);
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

int main(int argc, char **argv) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && strcmp(argv[1], "listen") == 0) return run_listen(argc, argv);
    if (argc > 1 && strcmp(argv[1], "publish") == 0) return run_publish(argc, argv);
    if (argc > 1 && strcmp(argv[1], "sink") == 0) return run_sink(argc, argv);
    fprintf(stderr, "usage: PushLoad listen|publish|sink --port P …\n");
    return 64;
}
