#ifndef ISOTHERM_CPREFETCH_H
#define ISOTHERM_CPREFETCH_H

// A builtin of the compiler, which Swift does not import. Asks for a cache line, to be written, without waiting for it; any
// address will do, also one that does not exist.
static inline void isotherm_prefetch(const void *address) {
    __builtin_prefetch(address, 1, 3);
}

#endif
