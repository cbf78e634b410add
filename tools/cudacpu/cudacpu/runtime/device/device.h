// What translated kernels are made of: memory accesses, number formats, arithmetic, atomics, warp
// collectives, cp.async and tensor-core operations. Registers are untyped: each PTX register is an
// unsigned integer (or bool) and every operation reinterprets it, as in PTX itself.
#pragma once
#include "device/access.h"
#include "device/async_copy.h"
#include "device/atomics.h"
#include "device/collectives.h"
#include "device/floats.h"
#include "device/formats.h"
#include "device/integers.h"
#include "device/print.h"
#include "device/tensor_cores.h"
#include "scheduler/scheduler.h"
