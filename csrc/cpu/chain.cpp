// The operators chain, chain_pack and in_huge_pages: from tensors to ChainParams.
#include <algorithm>
#include <cstring>

#include "../common/op.h"
#include "kernels.h"
#include "threads.h"

namespace mbv1::cpu {
namespace {

constexpr char kMagic[8] = {'m', 'b', 'v', '1', 'p', 'a', 'c', 'k'};
constexpr int64_t kNumbers = 13;

PackedHeader header_of(const ChainStage& s, DType dtype) {
  PackedHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  std::strncpy(header.isa, isa_name(), sizeof header.isa - 1);
  header.dtype = static_cast<int64_t>(dtype), header.separable = s.separable, header.strassen = s.strassen;
  header.in_channels = s.in_channels, header.out_channels = s.out_channels;
  header.kernel_h = s.window.kernel_h, header.kernel_w = s.window.kernel_w;
  return header;
}

Tensor pack(const OptionalTensor& dw_weight, const OptionalTensor& dw_bias, const Tensor& weight,
            const OptionalTensor& bias, bool strassen) {
  const Checks check("chain_pack");
  check.weight("weight", weight, 4, "(O, C, KH, KW)");
  const DType dtype = check.dtype("weight", weight);
  check.like("bias", bias, weight, {weight.size(0)});
  ChainStage s{};
  s.separable = dw_weight.has_value(), s.strassen = strassen;
  s.in_channels = weight.size(1), s.out_channels = weight.size(0);
  SeparableConv2dParams w{};
  w.pw.weight = weight.const_data_ptr(), w.pw.bias = data_of(bias), w.pw.bias_stride = bias_stride(bias);
  w.pw.weight_stride_o = weight.stride(0), w.pw.weight_stride_k = weight.stride(1);
  const Tensor& window = s.separable ? *dw_weight : weight;
  if (s.separable) {
    check.like("weight", weight, weight, {weight.size(0), weight.size(1), 1, 1});
    check.weight("dw_weight", window, 4, "(C, 1, KH, KW)");
    check.like("dw_weight", dw_weight, weight, {s.in_channels, 1, window.size(2), window.size(3)});
    check.like("dw_bias", dw_bias, weight, {s.in_channels});
    w.dw.weight = window.const_data_ptr(), w.dw.bias = data_of(dw_bias), w.dw.bias_stride = bias_stride(dw_bias);
  }
  w.dw.channels = s.in_channels;
  w.dw.weight_stride_c = window.stride(0);
  w.dw.weight_stride_h = window.stride(2), w.dw.weight_stride_w = window.stride(3);
  check.integers("kernel", {window.size(2), window.size(3)}, 2, 1);
  s.window.kernel_h = static_cast<int32_t>(window.size(2)), s.window.kernel_w = static_cast<int32_t>(window.size(3));
  w.dw.window = s.window;

  const int64_t bytes = kernels().packed_bytes(s, dtype);
  Tensor packed = torch::stable::empty(Ints{bytes}, ScalarType::Byte, std::nullopt, weight.device());
  const PackedHeader header = header_of(s, dtype);
  std::memcpy(packed.mutable_data_ptr(), &header, sizeof header);
  s.packed = packed.const_data_ptr();
  kernels().pack(s, dtype, w, torch_threads());
  return packed;
}

// Weights that every call reads take thousands of ordinary pages, more than a processor keeps translations of:
// looking them up again is 3% of MobileNetV1's time in float32.
Tensor in_huge_pages(const std::vector<Tensor>& parts) {
  const Checks check("in_huge_pages");
  constexpr int64_t kPage = kHugePage;
  int64_t bytes = 0;
  for (const Tensor& part : parts) {
    check.bytes("parts", part);
    bytes += part.numel();
  }
  // A rest of half a page or more is given a whole one.
  const int64_t huge = (bytes + kPage / 2) / kPage * kPage, room = huge > 0 ? std::max(bytes, huge) + kPage : bytes;
  Tensor memory = torch::stable::empty(Ints{room}, ScalarType::Byte, std::nullopt,
                                       torch::stable::Device(torch::headeronly::DeviceType::CPU));
  const int64_t address = reinterpret_cast<intptr_t>(memory.const_data_ptr());
  const int64_t first = huge > 0 ? (kPage - address % kPage) % kPage : 0;
  char* const begin = static_cast<char*>(memory.mutable_data_ptr()) + first;
  // Before its first use, and for what was in use before.
  if (huge > 0) ask_for_huge_pages(begin, static_cast<size_t>(huge));
  char* to = begin;
  for (const Tensor& part : parts) {
    if (part.numel() > 0) std::memcpy(to, part.const_data_ptr(), static_cast<size_t>(part.numel()));
    to += part.numel();
  }
  if (huge > 0) ask_for_huge_pages(begin, static_cast<size_t>(huge));
  return torch::stable::narrow(memory, 0, first, bytes);
}

Tensor chain(const Tensor& x, const Tensor& packed, const Tensor& layers, const Ints& size,
             const OptionalTensor& weight, const OptionalTensor& bias) {
  const Checks check("chain");
  ChainParams p{};
  p.dtype = check.input(x);
  const bool good = layers.dim() == 2 && layers.size(0) >= 1 && layers.size(0) <= kMaxStages &&
                    layers.size(1) == kNumbers && layers.stride(1) == 1 &&
                    (layers.size(0) == 1 || layers.stride(0) == kNumbers);
  if (!good || !layers.is_cpu() || layers.scalar_type() != ScalarType::Long) {
    check.fail("layers", "a contiguous int64 tensor on the CPU, (1 to 64, " + std::to_string(kNumbers) + ")",
               torch::headeronly::toString(layers.scalar_type()) + std::string(" ") + shape_string(layers) +
                   (layers.is_cpu() && layers.dim() == 2 && layers.stride(1) != 1 ? ", strided" : ""));
  }
  const int64_t count = layers.size(0);
  const int64_t* const numbers = static_cast<const int64_t*>(layers.const_data_ptr());
  check.bytes("packed", packed);
  const uintptr_t offset = reinterpret_cast<uintptr_t>(packed.const_data_ptr()) % alignof(float);
  if (offset != 0) check.fail("packed", "data at a multiple of 4 bytes", std::to_string(offset) + " behind one");
  const char* at = static_cast<const char*>(packed.const_data_ptr());
  int64_t left = packed.numel();
  ChainStage stages[kMaxStages] = {};
  int64_t channels = x.size(1), h = x.size(2), w = x.size(3);
  for (int64_t i = 0; i < count; ++i) {
    const int64_t* n = numbers + i * kNumbers;
    ChainStage& s = stages[i];
    check.integers("kernel", {n[0], n[1]}, 2, 1), check.integers("stride", {n[2], n[3]}, 2, 1);
    check.integers("padding", {n[4], n[5], n[6], n[7]}, 4, 0), check.integers("dilation", {n[8], n[9]}, 2, 1);
    check.integers("output channels", {n[10]}, 1, 1);
    for (int64_t a : {n[11], n[12]}) {
      if (a < 0 || a > static_cast<int64_t>(Activation::kSilu)) check.fail("activation", "0 to 4", a);
    }
    const auto i32 = [](int64_t value) { return static_cast<int32_t>(value); };
    s.window = {i32(n[0]), i32(n[1]), i32(n[2]), i32(n[3]), i32(n[4]), i32(n[6]), i32(n[8]), i32(n[9])};
    s.in_channels = channels, s.out_channels = n[10], s.in_h = h, s.in_w = w;
    s.out_h = check.output_size("height", h, n[4], n[5], n[0], n[2], n[8]);
    s.out_w = check.output_size("width", w, n[6], n[7], n[1], n[3], n[9]);
    check.not_huge("a padded feature map", {x.size(0), channels, h, w + n[6] + n[7]});
    s.dw_activation = static_cast<Activation>(n[11]), s.activation = static_cast<Activation>(n[12]);

    const auto name = [i] { return "packed[" + std::to_string(i) + "]"; };
    PackedHeader header{};
    if (left >= static_cast<int64_t>(sizeof header)) std::memcpy(&header, at, sizeof header);
    s.separable = header.separable != 0, s.strassen = header.strassen != 0;
    const PackedHeader expected = header_of(s, p.dtype);
    const bool is_it = std::memcmp(&header, &expected, sizeof header) == 0;
    const int64_t bytes = is_it ? kernels().packed_bytes(s, p.dtype) : 0;
    if (!is_it || bytes > left || (i + 1 == count && bytes < left)) {
      check.fail(name(),
                 "the result of chain_pack on this processor for " + std::to_string(channels) + " to " +
                     std::to_string(n[10]) + " channels, kernel " + shape_string({n[0], n[1]}) + " and " +
                     dtype_name(p.dtype),
                 "other weights or another tensor");
    }
    if (!s.separable && i > 0) check.fail(name(), "a separable block behind the first layer", "a dense convolution");
    if (!s.separable && (n[8] != 1 || n[9] != 1)) {
      check.fail("dilation", "1 for a dense convolution", shape_string({n[8], n[9]}));
    }
    s.packed = at, at += bytes, left -= bytes;
    channels = s.out_channels, h = s.out_h, w = s.out_w;
  }
  if (size != Ints{channels, h, w}) check.fail("size", shape_string({channels, h, w}), shape_string(size));
  Tensor y = new_output(check, x, {x.size(0), channels, h, w}, true);
  p.x = x.const_data_ptr(), p.y = y.mutable_data_ptr();
  p.batch = x.size(0);
  p.x_stride = strides_of(x), p.y_stride = strides_of(y);
  p.stages = stages, p.stage_count = count;
  std::optional<Call<PoolLinearParams>> head;
  if (weight.has_value()) head = prepare_pool_linear(y, *weight, bias);
  if (y.numel() > 0) {
    kernels().chain(p, torch_threads());
    if (head.has_value()) kernels().pool_linear.pick(head->params)->run(head->params, torch_threads());
  }
  return head.has_value() ? head->y : y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(mbv1, CPU, m) {
  m.impl("chain_pack", TORCH_BOX(&pack));
  m.impl("in_huge_pages", TORCH_BOX(&in_huge_pages));
  m.impl("chain", TORCH_BOX(&chain));
}

}  // namespace mbv1::cpu
