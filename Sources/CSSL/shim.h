#ifndef ISOTHERM_CSSL_SHIM_H
#define ISOTHERM_CSSL_SHIM_H

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/sha.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

// What OpenSSL has as macros, and Swift cannot see.

static inline int isotherm_ssl_set_tls_1_2_and_later(SSL_CTX *context) {
    return SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
}

// A peer that goes without close_notify has merely gone: HTTP says itself where a message ends.
static inline void isotherm_ssl_set_options(SSL_CTX *context) {
    SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_CIPHER_SERVER_PREFERENCE |
                                     SSL_OP_IGNORE_UNEXPECTED_EOF);
}

// An idle connection gives its record buffers back: 30 kB and more.
static inline void isotherm_ssl_set_modes(SSL_CTX *context) {
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
}

// A write takes what it can, as send does, and may go on from elsewhere.
static inline void isotherm_ssl_set_client_modes(SSL_CTX *context) {
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    // Otherwise each record takes two reads, one for its head.
    SSL_CTX_set_read_ahead(context, 1);
}

// What waits in a BIO in memory; valid until it is written to again.
static inline size_t isotherm_bio_data(BIO *bio, const char **data) { return (size_t)BIO_get_mem_data(bio, data); }

static inline void isotherm_bio_clear(BIO *bio) { (void)BIO_reset(bio); }

static inline size_t isotherm_bio_pending(BIO *bio) { return BIO_ctrl_pending(bio); }

#endif
