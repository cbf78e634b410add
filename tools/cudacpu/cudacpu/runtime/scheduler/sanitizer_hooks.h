// What AddressSanitizer and ThreadSanitizer must be told about fibers and memory.
//
// The scheduler is compiled without -fsanitize in every build; the hooks are weak symbols, so the same
// objects serve plain, AddressSanitizer and ThreadSanitizer programs. For that reason nothing in it
// calls memcpy on kernel data: a sanitizer would intercept it and see the scheduler, not the kernel,
// make the access.
#pragma once
#include <cstddef>

#define WEAK __attribute__((weak))
extern "C" {
WEAK void __sanitizer_start_switch_fiber(void**, const void*, size_t);
WEAK void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
WEAK void __asan_unpoison_memory_region(void const volatile*, size_t);
WEAK void __asan_poison_memory_region(void const volatile*, size_t);
WEAK void* __tsan_create_fiber(unsigned);
WEAK void __tsan_destroy_fiber(void*);
WEAK void __tsan_switch_to_fiber(void*, unsigned);
WEAK void* __tsan_get_current_fiber();
WEAK void __tsan_acquire(void*);
WEAK void __tsan_release(void*);
}

namespace cudacpu {

inline bool tsan() { return __tsan_create_fiber != nullptr; }

}  // namespace cudacpu
