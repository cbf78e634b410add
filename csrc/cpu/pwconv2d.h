// Pointwise convolution: one matrix product with bias, residual and activation.
#pragma once

#include "gemm.h"

namespace mbv1::cpu {
namespace {

// Rows of the left factor that an item multiplies: a fraction of a second-level cache, as weights pass by it.
constexpr int64_t kTileBytes = 256 * 1024;

// Where row k of the weights, a matrix [in_channels][out_channels], begins.
inline EvenRows weight_offset(const PwConv2dParams& p) { return {p.weight_stride_k}; }

// What few pixels may take of the second-level cache, where the panels of the weights pass by all of them.
constexpr int64_t kFewPixelsBytes = 512 * 1024;

// Pixels of more bytes are packed before a product: their rows would push each other out of the first-level cache.
constexpr int64_t kInPlaceBytes = 1024;

// How the pixels are rows of the left factor: in runs of whole tiles. Where the pixels of y are neighbours in memory
// (NCHW), an image is a run; else all of them are one.
struct PixelRuns {
  int64_t count, pixels;
  explicit PixelRuns(const PwConv2dParams& p)
      : count(p.y_stride.c == 1 ? 1 : p.batch), pixels(p.batch * p.h * p.w / count) {}
};

// Pixel `index` of an (N, H, W) grid.
struct Pixel {
  int64_t n, h, w;
  Pixel(int64_t index, int64_t height, int64_t width)
      : n(index / (height * width)), h(index / width % height), w(index % width) {}
  int64_t offset(const Strides4& s) const { return n * s.n + h * s.h + w * s.w; }
  void next(int64_t height, int64_t width) {
    if (++w < width) return;
    w = 0;
    if (++h == height) h = 0, ++n;
  }
};

// The pixels [first, first + count) of all images, in NCHW of one image, with offsets in the workspace.
template <class T>
Output<T> output_pixels(const PwConv2dParams& p, int64_t first, int64_t count) {
  int64_t* rows = workspace<int64_t>(Slot::kOffsets, 2 * count);
  const auto find = [&](const Strides4& stride, int64_t* to) {
    for (int64_t r = 0; r < count;) {
      const Pixel pixel(first + r, p.h, p.w);
      const int64_t start = pixel.offset(stride), of_row = smaller(p.w - pixel.w, count - r);
      for (int64_t i = 0; i < of_row; ++i) to[r + i] = start + i * stride.w;
      r += of_row;
    }
  };
  find(p.y_stride, rows);
  if (p.residual != nullptr) find(p.residual_stride, rows + count);
  return {static_cast<T*>(p.y),
          rows,
          count,
          kLanes<Acc<T>> * p.y_stride.c,
          p.y_stride.c,
          p.activation,
          static_cast<const T*>(p.residual),
          rows + count,
          p.residual_stride.c};
}

// Whether to share out the panels among the threads, each packed just before its only use: then the weights are read
// once and never written to memory.
template <class E>
bool by_panels(const PwConv2dParams& p, const Threads& threads) {
  using A = Acc<E>;
  const PixelRuns runs(p);
  return runs.count == 1 &&
         tile_elements<A>(runs.pixels, p.in_channels) * static_cast<int64_t>(sizeof(E)) <= kFewPixelsBytes &&
         (threads.count == 1 || divide_up(p.out_channels, Tile<A>::kCols) >= 2 * threads.count);
}

// Rows of the left factor: in tiles, or a row `step` elements behind the last one.
template <class E>
struct LeftFactor {
  const E* a;
  int64_t depth, step = 0;  // 0: tiles
  bool whole = false;       // behind the last row lies memory, up to a whole tile

  // What the product can take in rows.
  template <class T>
  static constexpr bool kReads = std::is_same_v<T, E> && sizeof(T) <= 4;

  // `count` rows times the panels [panel_begin, panel_end), the first of which is `packed`. `after` is what will be
  // multiplied next, or null.
  template <class T>
  void multiply(const Output<T>& out, int64_t count, const E* packed, const Acc<T>* bias, int64_t cols,
                int64_t panel_begin, int64_t panel_end, const E* after = nullptr) const {
    const auto multiply_rows = [&](auto rows, const Output<T>& to, int64_t rows_count) {
      multiply_passing(to, rows, rows_count, packed, bias, cols, panel_begin, panel_end, after);
    };
    if constexpr (kReads<T>) {
      constexpr int64_t kRows = Tile<Acc<T>>::kRows, kHalf = Tile<Acc<T>>::kHalf;
      const StridedRows<E> rows{a, depth, step};
      if (step != 0 && whole) return multiply_rows(rows, out, count);
      if (step != 0) {
        const int64_t rest = count % kRows, last_cols = cols - (panel_end - 1) * Tile<Acc<T>>::kCols;
        multiply_rows(rows, out, count - rest);
        if (rest == 0) return;
        // Half a tile is multiplied only by more than a vector.
        const int64_t last = rest <= kHalf && last_cols > kLanes<Acc<T>> ? kHalf : kRows, row = count - last;
        // The last tile overlaps the one before it.
        return multiply_rows(StridedRows<E>{a + row * step, depth, step}, out.from_row(row), last);
      }
    }
    multiply_rows(BlockedRows<E>{a, depth}, out, count);
  }
};

// Pixels [first, first + count) of all images where they lie in x, or tiles of them at `a`, yet to be packed.
template <class T, class E>
LeftFactor<E> left_factor(const PwConv2dParams& p, int64_t first, int64_t count, E* a) {
  const Strides4& s = p.x_stride;
  if constexpr (LeftFactor<E>::template kReads<T>) {
    const bool even =
        s.c == 1 && s.w > 0 && (s.h == p.w * s.w || p.h == 1) && (s.n == p.h * p.w * s.w || p.batch == 1);
    const bool taken = kPairOf<E> == 2 && has_amx() ? p.in_channels % kLanes<Acc<T>> == 0
                                                    : s.w * static_cast<int64_t>(sizeof(T)) <= kInPlaceBytes &&
                                                          p.in_channels % kPairOf<E> == 0;
    if (even && taken && count >= Tile<Acc<T>>::kRows) {
      return {static_cast<const T*>(p.x) + first * s.w, p.in_channels, s.w};
    }
  }
  return {a, p.in_channels};
}

// The only run of pixels.
template <class T, class E>
void multiply_by_panels(const PwConv2dParams& p, const Threads& threads, const LeftFactor<E>& left,
                        const Acc<T>* bias) {
  using A = Acc<T>;
  constexpr int kCols = Tile<A>::kCols;
  const int64_t pixels = PixelRuns(p).pixels;
  const Output<T> out = output_pixels<T>(p, 0, pixels);
  parallel(threads, divide_up(p.out_channels, kCols), [&](int64_t begin, int64_t end) {
    E* panel = workspace<E>(Slot::kWeights, panel_elements<A>(p.in_channels));
    for (int64_t i = begin; i < end; ++i) {
      pack_panel(static_cast<const T*>(p.weight), weight_offset(p), p.weight_stride_o, p.in_channels, p.out_channels,
                 i * kCols, panel);
      left.multiply(out, pixels, panel, bias, p.out_channels, i, i + 1);
    }
  });
}

// Pixels [first, first + count) of all images, in NCHW of one image, to tiles of the left factor.
template <class T, class E>
void pack_pixels(const PwConv2dParams& p, int64_t first, int64_t count, E* a) {
  using A = Acc<T>;
  constexpr int kRows = Tile<A>::kRows;
  const T* x = static_cast<const T*>(p.x);
  const int64_t plane = p.h * p.w;
  const bool dense = p.x_stride.w == 1 && (p.x_stride.h == p.w || p.h == 1);
  Pixel pixel(first, p.h, p.w);
  if (dense && p.x_stride.c != 1 && first % plane + count <= plane) {
    return pack_columns(RowsOf<T>{x + pixel.offset(p.x_stride), p.x_stride.c, p.in_channels, plane - first % plane},
                        count, a);
  }
  for (int64_t r = 0; r < count; ++r, pixel.next(p.h, p.w)) {
    pack_row(x + pixel.offset(p.x_stride), p.x_stride.c, p.in_channels, r % kRows,
             a + r / kRows * tile_elements<A>(kRows, p.in_channels));
  }
}

// Planes that are read and written where they lie, if they are dense, large and few: neither is then transposed.
constexpr int64_t kLargePlane = 28 * 28, kFewPlanes = 256;
// Neighbouring panels that a row of tiles takes one after another: what lies together of a plane is then read and
// written together. As many as a first-level cache keeps, and as pay.
constexpr int64_t kPanelsBytes = 32 * 1024, kMostPanels = 8;

inline bool is_of_planes(const PwConv2dParams& p, const Strides4& s) { return s.w == 1 && (s.h == p.w || p.h == 1); }

// Whether the output is such planes, and so is what is added to it.
inline bool makes_planes(const PwConv2dParams& p) {
  return p.y_stride.c != 1 && is_of_planes(p, p.y_stride) &&
         (p.residual == nullptr || is_of_planes(p, p.residual_stride)) && p.h * p.w >= kLargePlane &&
         p.in_channels <= kFewPlanes;
}

// The product of weights, as rows, and planes.
template <class T>
class PlanesProduct {
 public:
  static constexpr int kRows = Tile<T>::kRows, kCols = Tile<T>::kCols;
  // It takes so many channels at a time.
  static constexpr int kUnroll = WeightRows<T>::kUnroll;

  PlanesProduct(const PwConv2dParams& params, const Threads& threads)
      : p(params),
        weights(pack_weight_rows(threads, static_cast<const T*>(p.weight), p.weight_stride_o, p.weight_stride_k,
                                 p.out_channels, p.in_channels)),
        bias(gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels)) {
    for (int64_t r = 0; r < kRows; ++r) y_row[r] = r * p.y_stride.c, residual_row[r] = r * p.residual_stride.c;
  }

  // Pixels that a row of tiles takes one after another.
  int64_t pixels_at_once() const {
    const int64_t fitting = kPanelsBytes / (p.in_channels * kCols * static_cast<int64_t>(sizeof(T)));
    return larger<int64_t>(1, smaller(fitting, kMostPanels)) * kCols;
  }

  // Output pixels [first, last) of image n, not more than pixels_at_once(). Pixel `first` of the first plane is x,
  // the others lie `plane` apart. Up to `whole` they are read as whole vectors; `rest` is a panel of those behind it.
  void multiply(int64_t n, int64_t first, int64_t last, const T* x, int64_t plane, int64_t whole,
                const T* rest) const {
    WeightRows<T> rows{{weights, p.in_channels}, plane};
    for (int64_t o = 0; o < p.out_channels; o += kRows, rows.a += tile_elements<T>(kRows, p.in_channels)) {
      const int64_t count = smaller<int64_t>(p.out_channels - o, kRows);
      Output<T> out{static_cast<T*>(p.y) + n * p.y_stride.n + o * p.y_stride.c + first,
                    y_row,
                    count,
                    kLanes<T>,
                    1,
                    p.activation};
      if (p.residual != nullptr) {
        out.residual = static_cast<const T*>(p.residual) + n * p.residual_stride.n + o * p.residual_stride.c + first;
        out.residual_row = residual_row, out.residual_step = 1;
      }
      for (int64_t pixel = first; pixel < last; pixel += kCols) {
        const bool in_place = pixel < whole;
        rows.plane = in_place ? plane : kCols;
        multiply_into(out, rows, count, in_place ? x + (pixel - first) : rest, bias + o, 0,
                      smaller<int64_t>(last - pixel, kCols));
        out.y += kCols;
        if (p.residual != nullptr) out.residual += kCols;
      }
    }
  }

 private:
  const PwConv2dParams& p;
  const T* weights;
  const T* bias;
  int64_t y_row[kRows], residual_row[kRows];
};

template <class T>
void pwconv2d_planes(const PwConv2dParams& p, const Threads& threads) {
  const PlanesProduct<T> product(p, threads);
  // Planes are read where they lie but for what is not a whole vector, and unless there is a channel too few.
  const bool copies = p.in_channels % product.kUnroll != 0;
  const int64_t pixels = p.h * p.w, group = copies ? product.kCols : product.pixels_at_once();
  const int64_t groups = divide_up(pixels, group);
  parallel(threads, p.batch * groups, [&](int64_t begin, int64_t end) {
    T* copy = workspace<T>(Slot::kInput, panel_elements<T>(p.in_channels));
    for (int64_t item = begin; item < end; ++item) {
      const int64_t n = item / groups, first = item % groups * group, last = smaller(first + group, pixels);
      const T* x = static_cast<const T*>(p.x) + n * p.x_stride.n;
      const int64_t whole = copies ? first : last - (last - first) % product.kCols;
      if (whole < last) pack_panel(x, EvenRows{p.x_stride.c}, 1, p.in_channels, pixels, whole, copy);
      product.multiply(n, first, last, x + first, p.x_stride.c, whole, copy);
    }
  });
}

template <class T, class E>
void pwconv2d(const PwConv2dParams& p, const Threads& threads) {
  using A = Acc<T>;
  if constexpr (std::is_same_v<T, float>) {
    if (makes_planes(p) && is_of_planes(p, p.x_stride)) return pwconv2d_planes<T>(p, threads);
  }
  constexpr int kRows = Tile<A>::kRows;
  const A* bias = gather_bias<T>(Slot::kBias, p.bias, p.bias_stride, p.out_channels);
  const PixelRuns runs(p);
  const int64_t tile = tile_elements<A>(kRows, p.in_channels), tiles = divide_up(runs.pixels, kRows);
  if (by_panels<E>(p, threads)) {
    E* a = workspace<E>(Slot::kTile, tiles * tile);
    const LeftFactor<E> left = left_factor<T>(p, 0, runs.pixels, a);
    if (left.step != 0) return multiply_by_panels<T>(p, threads, left, bias);
    parallel(threads, tiles, [&](int64_t begin, int64_t end) {
      const int64_t first = begin * kRows;
      pack_pixels<T>(p, first, smaller(end * kRows, runs.pixels) - first, a + begin * tile);
    });
    return multiply_by_panels<T>(p, threads, left, bias);
  }
  const E* packed = pack_weights<E>(threads, static_cast<const T*>(p.weight), weight_offset(p), p.weight_stride_o,
                                    p.in_channels, p.out_channels);
  const int64_t panels = divide_up(p.out_channels, Tile<A>::kCols);
  // Every tile is packed once for each item that it is in.
  const int64_t items = divide_up(threads.count * kItemsPerThread, runs.count);
  const int64_t blocks = smaller(panels, divide_up(items, tiles)), panels_per_block = divide_up(panels, blocks);
  const int64_t fitting = larger<int64_t>(1, kTileBytes / (tile * static_cast<int64_t>(sizeof(E))));
  // Of a single run every thread gets as many groups, of as many tiles.
  const int64_t most = smaller(fitting, divide_up(tiles * blocks, items)), even = runs.count == 1 ? threads.count : 1;
  const int64_t group = divide_up(tiles, round_up(divide_up(tiles, most), even)), groups = divide_up(tiles, group);
  parallel(threads, runs.count * groups * blocks, [&](int64_t begin, int64_t end) {
    E* a = workspace<E>(Slot::kTile, group * tile);
    int64_t packed_group = -1;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t in_run = item / blocks % groups * group * kRows;
      const int64_t first = item / blocks / groups * runs.pixels + in_run;
      const int64_t count = smaller(group * kRows, runs.pixels - in_run);
      const LeftFactor<E> left = left_factor<T>(p, first, count, a);
      const int64_t panel = item % blocks * panels_per_block;
      if (left.step == 0 && item / blocks != packed_group) pack_pixels<T>(p, first, count, a);
      packed_group = item / blocks;
      left.multiply(output_pixels<T>(p, first, count), count, packed + panel * panel_elements<A>(p.in_channels), bias,
                    p.out_channels, panel, smaller(panel + panels_per_block, panels));
    }
  });
}

inline void run_pwconv2d(const PwConv2dParams& p, const Threads& threads) {
  with_dtype(p.dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { pwconv2d<decltype(type), decltype(operand)>(p, threads); });
  });
}

constexpr Kernel<PwConv2dParams> kPwConv2d[] = {
    {"pwconv2d_nhwc", [](const PwConv2dParams& p) { return p.y_stride.c == 1; }, run_pwconv2d},
    {"pwconv2d_nchw", [](const PwConv2dParams&) { return true; }, run_pwconv2d},
};

}  // namespace
}  // namespace mbv1::cpu
