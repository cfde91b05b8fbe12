#define _GNU_SOURCE
#include "CTelemetry.h"

#include <pthread.h>
#include <stddef.h>
#include <sys/eventfd.h>

static _Thread_local void *thread_slab;
static pthread_key_t exit_key;
static pthread_once_t exit_once = PTHREAD_ONCE_INIT;
static void (*exit_release)(void *slab);

static void on_exit_of_thread(void *slab) {
    thread_slab = NULL;
    if (exit_release) exit_release(slab);
}

static void make_key(void) { pthread_key_create(&exit_key, on_exit_of_thread); }

void *isotherm_thread_slab(void) { return thread_slab; }

void isotherm_set_thread_slab(void *slab) {
    pthread_once(&exit_once, make_key);
    thread_slab = slab;
    pthread_setspecific(exit_key, slab);
}

void isotherm_on_thread_exit(void (*release)(void *slab)) { exit_release = release; }

int isotherm_make_event(void) { return eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC); }

void isotherm_name_thread(const char *name) { pthread_setname_np(pthread_self(), name); }
