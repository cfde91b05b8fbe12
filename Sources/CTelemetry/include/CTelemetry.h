#ifndef ISOTHERM_CTELEMETRY_H
#define ISOTHERM_CTELEMETRY_H

#include <stdint.h>
#include <time.h>

// Between the monotonic clock and the wall clock, in nanoseconds, as it was when the program was loaded.
extern uint64_t isotherm_wall_offset;

// Nanoseconds since 1970: the wall clock as it was when the program was loaded, and the monotonic clock since then.
static inline uint64_t isotherm_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec + isotherm_wall_offset;
}

// The same by a call, for other machines.
void *isotherm_load_thread_slab(void);

// The running thread's slab, or NULL. Never kept across a suspension: another thread may run what follows. So the
// compiler must not remember where the variable lies, as it may for one that it sees; assembly is done again each time.
static inline __attribute__((always_inline)) void *isotherm_thread_slab(void) {
#if defined(__x86_64__) && defined(__linux__)
    void *slab;
    __asm__ volatile("movq isotherm_slab@GOTTPOFF(%%rip), %0\n\tmovq %%fs:(%0), %0" : "=r"(slab));
    return slab;
#elif defined(__aarch64__) && defined(__linux__)
    void *slab, *base;
    __asm__ volatile("adrp %0, :gottprel:isotherm_slab\n\tldr %0, [%0, #:gottprel_lo12:isotherm_slab]\n\t"
                     "mrs %1, tpidr_el0\n\tldr %0, [%1, %0]"
                     : "=&r"(slab), "=&r"(base));
    return slab;
#else
    return isotherm_load_thread_slab();
#endif
}

// Sets the running thread's slab. `isotherm_on_thread_exit` gets it when the thread ends.
void isotherm_set_thread_slab(void *slab);

// Set once, before the first slab.
void isotherm_on_thread_exit(void (*release)(void *slab));

// 0, and one more in each generation of children that fork(2) makes. A child starts without slabs.
unsigned isotherm_process_number(void);

// A descriptor that poll(2) sees as readable once 8 bytes have been written to it; reading resets it. -1 on failure.
int isotherm_make_event(void);

// Names the running thread, for whoever looks at the process; at most 15 characters.
void isotherm_name_thread(const char *name);

#endif
