#define _GNU_SOURCE
#include "CTelemetry.h"

#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <time.h>

static uint64_t wall_offset;

static uint64_t nanoseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

__attribute__((constructor)) static void anchor_clock(void) {
    wall_offset = nanoseconds(CLOCK_REALTIME) - nanoseconds(CLOCK_MONOTONIC);
}

uint64_t isotherm_now(void) { return nanoseconds(CLOCK_MONOTONIC) + wall_offset; }

static _Thread_local void *thread_slab;
static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static void (*exit_release)(void *slab);

static void on_exit_of_thread(void *slab) {
    thread_slab = NULL;
    if (exit_release) exit_release(slab);
}

static void make_key(void) { pthread_key_create(&exit_key, on_exit_of_thread); }

static unsigned process_number;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_child(void) {
    process_number++;
    thread_slab = NULL;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

unsigned isotherm_process_number(void) {
    pthread_once(&fork_once, watch_forks);
    return process_number;
}

void *isotherm_thread_slab(void) { return thread_slab; }

void isotherm_set_thread_slab(void *slab) {
    pthread_once(&exit_once, make_key);
    thread_slab = slab;
    pthread_setspecific(exit_key, slab);
}

void isotherm_on_thread_exit(void (*release)(void *slab)) { exit_release = release; }

int isotherm_make_event(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

void isotherm_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }
