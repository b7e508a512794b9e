/* The library opened by hand, as a driver manager or a scripting language opens it: -DOPEN_BY_HAND. */
#ifndef BYHAND_H
#define BYHAND_H

#ifdef OPEN_BY_HAND
#include <dlfcn.h>

#define BY_HAND(name) static __typeof__(name) *name##_by_hand;
#define EACH_CALL(call)                                                                                            \
    call(vianet_connect) call(vianet_send) call(vianet_recv) call(vianet_close) call(vianet_info)                  \
    call(vianet_last_error) call(vianet_set_event_callback) call(vianet_set_log_callback) call(vianet_version)
EACH_CALL(BY_HAND)

/* From here on the names mean what dlsym found. */
#define vianet_connect (*vianet_connect_by_hand)
#define vianet_send (*vianet_send_by_hand)
#define vianet_recv (*vianet_recv_by_hand)
#define vianet_close (*vianet_close_by_hand)
#define vianet_info_call (*vianet_info_by_hand)
#define vianet_set_event_callback (*vianet_set_event_callback_by_hand)
#define vianet_set_log_callback (*vianet_set_log_callback_by_hand)
#define vianet_version (*vianet_version_by_hand)

static inline void open_library(const char *path) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
#define FIND(name)                                            \
    *(void **)&name##_by_hand = dlsym(library, #name);        \
    if (!name##_by_hand) {                                    \
        fprintf(stderr, "%s: no %s\n", path, #name);          \
        exit(1);                                              \
    }
    FIND(vianet_connect) FIND(vianet_send) FIND(vianet_recv) FIND(vianet_close) FIND(vianet_info)
    FIND(vianet_last_error) FIND(vianet_set_event_callback) FIND(vianet_set_log_callback) FIND(vianet_version)
    /* Closing it must not pull it from under its own thread: it is never unloaded. */
    dlclose(library);
}
#else
#define vianet_info_call vianet_info
#endif

#endif
