// Fibers: stacks and the switches between them (see scheduler.h).
#include <cstdlib>

#include "scheduler/worker.h"

extern "C" void cudacpu_switch_stack(void** save_sp, void* new_sp);

// Saves the callee-saved registers on the current stack and continues on another one.
asm(R"(
.text
.hidden cudacpu_switch_stack
.globl cudacpu_switch_stack
.type cudacpu_switch_stack,@function
cudacpu_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cudacpu_switch_stack,.-cudacpu_switch_stack
)");

namespace cudacpu {

void Worker::switch_to_scheduler() {
  Fiber* me = current_;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(me->state == State::kDone ? nullptr : &me->asan_fake_stack, main_stack_,
                                   main_stack_bytes_);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(main_tsan_, 1);
  cudacpu_switch_stack(&me->sp, main_sp_);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(me->asan_fake_stack, nullptr, nullptr);
}

void Worker::switch_to_fiber(Fiber* fiber) {
  current_ = fiber;
  if (__sanitizer_start_switch_fiber)
    __sanitizer_start_switch_fiber(&main_fake_stack_, fiber->stack, kStackBytes);
  if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(fiber->tsan, 1);
  cudacpu_switch_stack(&main_sp_, fiber->sp);
  if (__sanitizer_finish_switch_fiber) __sanitizer_finish_switch_fiber(main_fake_stack_, nullptr, nullptr);
}

void Worker::fiber_main() {
  Worker* w = worker;
  if (__sanitizer_finish_switch_fiber)
    __sanitizer_finish_switch_fiber(nullptr, &w->main_stack_, &w->main_stack_bytes_);
  w->launch_->kernel->entry(w->launch_->parameters);
  if (__tsan_release) __tsan_release(&w->launch_end_);
  Fiber* me = w->current_;
  me->state = State::kDone;
  w->warps_[me->index / kWarpSize].exited |= 1u << me->index % kWarpSize;
  --w->alive_;
  w->spins_ = 0;
  w->switch_to_scheduler();
  abort();
}

}  // namespace cudacpu
