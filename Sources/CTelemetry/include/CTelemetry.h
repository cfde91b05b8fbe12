#ifndef ISOTHERM_CTELEMETRY_H
#define ISOTHERM_CTELEMETRY_H

#include <stdint.h>

// Nanoseconds since 1970: the wall clock as it was when the program was loaded, and the monotonic clock since then.
uint64_t isotherm_now(void);

// The running thread's slab, or NULL. Never kept across a suspension: another thread may run what follows.
void *isotherm_thread_slab(void);

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
