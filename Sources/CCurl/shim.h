#ifndef ISOTHERM_CCURL_SHIM_H
#define ISOTHERM_CCURL_SHIM_H

#include <curl/curl.h>

// curl_easy_setopt and curl_easy_getinfo are variadic, which Swift does not import: one typed wrapper for each kind.
static inline CURLcode isotherm_curl_set_long(CURL *handle, CURLoption option, long value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode isotherm_curl_set_offset(CURL *handle, CURLoption option, curl_off_t value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode isotherm_curl_set_string(CURL *handle, CURLoption option, const char *value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode isotherm_curl_set_pointer(CURL *handle, CURLoption option, void *value) {
    return curl_easy_setopt(handle, option, value);
}

static inline CURLcode isotherm_curl_set_list(CURL *handle, CURLoption option, struct curl_slist *value) {
    return curl_easy_setopt(handle, option, value);
}

typedef size_t (*isotherm_curl_data_callback)(char *data, size_t size, size_t count, void *context);

static inline CURLcode isotherm_curl_set_callback(
    CURL *handle, CURLoption option, isotherm_curl_data_callback value) {
    return curl_easy_setopt(handle, option, value);
}

typedef int (*isotherm_curl_progress_callback)(
    void *context, curl_off_t downTotal, curl_off_t downNow, curl_off_t upTotal, curl_off_t upNow);

static inline CURLcode isotherm_curl_set_progress_callback(CURL *handle, isotherm_curl_progress_callback value) {
    return curl_easy_setopt(handle, CURLOPT_XFERINFOFUNCTION, value);
}

static inline CURLcode isotherm_curl_get_long(CURL *handle, CURLINFO info, long *value) {
    return curl_easy_getinfo(handle, info, value);
}

static inline CURLcode isotherm_curl_get_offset(CURL *handle, CURLINFO info, curl_off_t *value) {
    return curl_easy_getinfo(handle, info, value);
}

#endif
