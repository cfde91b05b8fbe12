#ifndef ISOTHERM_CEPOLL_SHIM_H
#define ISOTHERM_CEPOLL_SHIM_H

// What Swift's Glibc module leaves out.
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>

// Extensions of GNU's, which <string.h> and <pthread.h> declare only where they are asked to.
extern void *memmem(const void *haystack, size_t count, const void *needle, size_t needle_count);
extern int pthread_setname_np(pthread_t thread, const char *name);

#endif
