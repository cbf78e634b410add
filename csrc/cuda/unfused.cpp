// separable_conv2d as the two kernels that dwconv2d and pwconv2d would choose: for shapes where making the tensor
// between them anew costs more than its way through memory.
#include "choice.h"

namespace mbv1::cuda {
namespace {

constexpr int64_t kAlignment = 256;

int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

int64_t middle_bytes(const SeparableConv2dParams& p) {
  const int64_t bytes = p.dw.batch * p.dw.channels * p.dw.out_h * p.dw.out_w * element_bytes(p.dw.dtype);
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

// The halves, with the tensor between them dense in y's layout, at the start of the workspace. Before there is one,
// an address that is aligned like it stands for it.
SeparableConv2dParams halves(SeparableConv2dParams p) {
  const int64_t c = p.dw.channels, h = p.dw.out_h, w = p.dw.out_w;
  const Strides4 stride = p.pw.y_stride.c == 1 ? Strides4{h * w * c, 1, w * c, c} : Strides4{c * h * w, h * w, w, 1};
  if (p.pw.workspace == nullptr) p.pw.workspace = reinterpret_cast<void*>(kAlignment);
  unsigned char* middle = static_cast<unsigned char*>(p.pw.workspace);
  p.dw.y = middle, p.pw.x = middle;
  p.dw.y_stride = p.pw.x_stride = stride;
  p.pw.workspace = middle + middle_bytes(p);
  return p;
}

}  // namespace

bool matches_unfused(const SeparableConv2dParams& p) {
  const SeparableConv2dParams parts = halves(p);
  return choose(parts.dw) != nullptr && choose(parts.pw) != nullptr;
}

Work work_unfused(const SeparableConv2dParams& p) {
  const DwConv2dParams dw = halves(p).dw;
  return choose(dw)->work(dw);
}

std::vector<Work> further_unfused(const SeparableConv2dParams& p) {
  const SeparableConv2dParams parts = halves(p);
  std::vector<Work> works;
  const auto append = [&](const auto& kernel, const auto& params) {
    if (kernel.further == nullptr) return;
    for (const Work& work : kernel.further(params)) works.push_back(work);
  };
  append(*choose(parts.dw), parts.dw);
  works.push_back(choose(parts.pw)->work(parts.pw));
  append(*choose(parts.pw), parts.pw);
  return works;
}

int64_t workspace_unfused(const SeparableConv2dParams& p) {
  const PwConv2dParams pw = halves(p).pw;
  const auto* kernel = choose(pw);
  return middle_bytes(p) + (kernel->workspace == nullptr ? 0 : kernel->workspace(pw));
}

cudaError_t launch_unfused(const SeparableConv2dParams& p, cudaStream_t stream) {
  const SeparableConv2dParams parts = halves(p);
  if (const cudaError_t error = choose(parts.dw)->launch(parts.dw, stream); error != cudaSuccess) return error;
  return choose(parts.pw)->launch(parts.pw, stream);
}

}  // namespace mbv1::cuda
