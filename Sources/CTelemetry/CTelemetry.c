#define _GNU_SOURCE
#include "CTelemetry.h"

#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>

uint64_t isotherm_wall_offset;

__attribute__((constructor)) static void anchor_clock(void) {
    struct timespec wall;
    clock_gettime(CLOCK_REALTIME, &wall);
    isotherm_wall_offset = (uint64_t)wall.tv_sec * 1000000000 + (uint64_t)wall.tv_nsec - isotherm_now();
}

_Thread_local void *isotherm_slab;
static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static void (*exit_release)(void *slab);

static void on_exit_of_thread(void *slab) {
    isotherm_slab = NULL;
    if (exit_release) exit_release(slab);
}

static void make_key(void) { pthread_key_create(&exit_key, on_exit_of_thread); }

static unsigned process_number;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void in_child(void) {
    process_number++;
    isotherm_slab = NULL;
}

static void watch_forks(void) { pthread_atfork(NULL, NULL, in_child); }

unsigned isotherm_process_number(void) {
    pthread_once(&fork_once, watch_forks);
    return process_number;
}

void *isotherm_load_thread_slab(void) { return isotherm_slab; }

void isotherm_set_thread_slab(void *slab) {
    pthread_once(&exit_once, make_key);
    isotherm_slab = slab;
    pthread_setspecific(exit_key, slab);
}

void isotherm_on_thread_exit(void (*release)(void *slab)) { exit_release = release; }

int isotherm_make_event(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

void isotherm_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }
