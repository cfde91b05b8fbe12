#ifndef ISOTHERM_CCRYPTO_SHIM_H
#define ISOTHERM_CCRYPTO_SHIM_H

// The SHA256_* functions are the only ones that let a keyed state be copied without an allocation and a lookup
// (0.2 µs a MAC instead of 1.5); OpenSSL 3 marks them as deprecated and keeps them.
#define OPENSSL_SUPPRESS_DEPRECATED

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/sha.h>

#endif
