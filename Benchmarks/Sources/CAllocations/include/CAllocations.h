#pragma once
#include <stdint.h>

/// Allocations by the calling thread since it started: malloc, calloc, realloc and the aligned ones.
uint64_t bench_thread_allocations(void);

/// Allocations by all threads.
uint64_t bench_process_allocations(void);
