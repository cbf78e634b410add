// A chain of layers in one call: dense convolutions of few channels, and depthwise-separable blocks.
//
// Layers whose outputs would fall out of the second-level cache are run depth first: the last one of such a group
// asks the one before it for the rows that its next band reads, and so on; between two layers lies a window of rows
// that moves down (Map). All else is done layer by layer, with the whole feature map between two.
//
// Images are shared out among the threads. What is left, where there are fewer images than threads, shares out the
// output rows of each group, and where those are too few, output channels. Lines that go from one core's cache to
// another's are what that costs: between groups the rows of a map then lie one behind the other, so that each
// thread's are one piece of memory, and no map lies where one of another shape was, whose pieces were others.
#pragma once

#include "chain_pack.h"

namespace mbv1::cpu {
namespace {

// What the rows and weights of a group may take of the second-level cache.
constexpr int64_t kGroupBytes = 1024 * 1024;
// A feature map that stays in the cache anyway: not worth reading the weights once a band for.
constexpr int64_t kSmallMapBytes = 256 * 1024;
// A feature map that does not stay in the second-level cache until the next layer reads it.
constexpr int64_t kFarMapBytes = 512 * 1024;
// Pixels of a band, at least: several tiles, which share each reading of the weights.
constexpr int64_t kBandPixels = 112;

template <class T, class E>
struct Layer {
  ChainStage stage;
  PackedStage<T, E> weights;
  DwRuns<T, E> runs;
  DwConv2dParams dw;      // of a separable block
  StemConv2dParams stem;  // of a dense convolution
  int64_t step;           // output rows made at once
  int64_t group_begin, group_end;
  int64_t blocks, left, columns, rows;  // of the map that it writes, which the last layer does not
  int64_t place;                        // of that map in the memory that threads share, behind a group

  int64_t map_elements() const { return blocks * rows * columns * kLanes<Acc<T>>; }
  bool same_map(const Layer& other) const {
    return blocks == other.blocks && rows == other.rows && columns == other.columns;
  }
  int64_t map_bytes() const { return map_elements() * static_cast<int64_t>(sizeof(T)); }
};

template <class T, class E>
class Chain {
 public:
  using A = Acc<T>;
  static constexpr int kL = kLanes<A>;

  explicit Chain(const ChainParams& params) : p(params), count(params.stage_count) {
    layers = workspace<Layer<T, E>>(Slot::kPlan, count);
    for (int64_t s = 0; s < count; ++s) describe(s);
    for (int64_t s = 0; s < count; s = layers[s].group_end) plan_group(s);
    place_maps();
  }

  void run(const Threads& threads) const {
    const int64_t whole = p.batch / threads.count * threads.count;
    parallel(threads, whole, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) run_image(n, one_thread());
    });
    for (int64_t n = whole; n < p.batch; ++n) run_image(n, threads);
  }

 private:
  // One thread's progress through a group.
  struct Progress {
    int64_t n;
    int64_t begin[kMaxStages], end[kMaxStages], done[kMaxStages];
    Map<T> out[kMaxStages];
    Map<T> in;       // of the group's first layer
    int64_t staged;  // rows of `in` that are there, where it is filled from x
  };

  void describe(int64_t s) {
    Layer<T, E>& l = layers[s];
    l.stage = p.stages[s];
    const ChainStage& g = l.stage;
    l.weights = PackedStage<T, E>(g);
    l.runs = DwRuns<T, E>(g.window);
    l.dw = {}, l.stem = {};
    l.dw.x = l.stem.x = p.x, l.dw.x_stride = l.stem.x_stride = p.x_stride;
    l.dw.channels = l.stem.in_channels = g.in_channels, l.stem.out_channels = g.out_channels;
    l.dw.in_h = l.stem.in_h = g.in_h, l.dw.in_w = l.stem.in_w = g.in_w;
    l.dw.out_h = l.stem.out_h = g.out_h, l.dw.out_w = l.stem.out_w = g.out_w;
    l.dw.window = l.stem.window = g.window;
    l.dw.activation = g.dw_activation, l.stem.activation = g.activation;
    l.blocks = blocks_of<A>(g.out_channels);
    l.left = l.columns = l.rows = l.place = 0;
    if (s + 1 == count) return;
    const ChainStage& next = p.stages[s + 1];
    l.left = next.window.pad_left;
    l.columns = larger(l.left + g.out_w, (next.out_w - 1) * next.window.stride_w +
                                             (next.window.kernel_w - 1) * int64_t{next.window.dilation_w} + 1);
    l.rows = g.out_h;
  }

  int64_t weight_bytes(int64_t s) const {
    return layers[s].weights.panel_count * layers[s].weights.panel_size * static_cast<int64_t>(sizeof(E));
  }

  // Extends the group that begins with layer s while rows and weights fit the cache.
  void plan_group(int64_t s) {
    int64_t end = s + 1, bytes = weight_bytes(s);
    set_step(s, false);
    for (; end < count; ++end) {
      const int64_t whole = layers[end - 1].map_bytes();
      if (whole <= kSmallMapBytes) break;
      set_step(end - 1, true), set_step(end, true);
      const int64_t window = rows_spanned(layers[end].stage.window, layers[end].step) + layers[end - 1].step - 1;
      const int64_t rows = smaller(layers[end - 1].rows, window);
      bytes += whole / layers[end - 1].rows * rows + weight_bytes(end);
      if (bytes > kGroupBytes) break;
      layers[end - 1].rows = rows;
    }
    if (end == s + 1) set_step(s, false);
    for (int64_t i = s; i < end; ++i) layers[i].group_begin = s, layers[i].group_end = end;
  }

  void set_step(int64_t s, bool banded) {
    const ChainStage& g = layers[s].stage;
    const int64_t fitting = kTileBytes / (depth_of<E>(g) * g.out_w * static_cast<int64_t>(sizeof(E)));
    const int64_t wanted = banded ? divide_up(kBandPixels, g.out_w) : fitting;
    layers[s].step = larger<int64_t>(1, smaller(g.out_h, smaller(fitting, wanted)));
  }

  // A map takes the place of an earlier one of its shape that the group does not read.
  void place_maps() {
    int64_t in = -1;  // what the group reads
    for (int64_t s = layers[0].group_end - 1; s + 1 < count; s = layers[s + 1].group_end - 1) {
      Layer<T, E>& last = layers[s];
      last.place = shared_elements;
      for (int64_t h = layers[0].group_end - 1; h < s; h = layers[h + 1].group_end - 1) {
        if (last.same_map(layers[h]) && layers[h].place != in) last.place = layers[h].place;
      }
      if (last.place == shared_elements) shared_elements += last.map_elements();
      largest_map = larger(largest_map, last.map_elements());
      in = last.place;
    }
  }

  void run_image(int64_t n, const Threads& threads) const {
    const bool alone = threads.count == 1;  // then rows of one block, and places that take turns, are a little faster
    T* const maps = workspace<T>(Slot::kShared, alone ? 2 * largest_map : shared_elements);
    Map<T> in{};
    for (int64_t s = 0; s < count; s = layers[s].group_end) {
      const Layer<T, E>& last = layers[layers[s].group_end - 1];
      const int64_t place = !alone ? last.place : in.data == maps ? largest_map : 0;
      const int64_t row_blocks = alone ? 1 : last.blocks;
      const Map<T> out{maps + place, last.rows, last.columns, row_blocks, last.map_bytes() > kFarMapBytes};
      run_group(n, s, in, out, threads);
      in = out;
    }
  }

  void run_group(int64_t n, int64_t first, const Map<T>& in, const Map<T>& out, const Threads& threads) const {
    const int64_t last = layers[first].group_end - 1, height = layers[last].stage.out_h;
    const int64_t share = divide_up(height, threads.count);
    if (first == last && layers[first].stage.separable && first > 0 && 10 * share * threads.count > 11 * height) {
      return run_shared(n, first, in, out, threads);
    }
    parallel(threads, divide_up(height, share), [&](int64_t begin, int64_t end) {
      for (int64_t item = begin; item < end; ++item) {
        run_rows(n, first, in, out, item * share, smaller(height, (item + 1) * share));
      }
    });
  }

  // Beside rows [begin, end) of blocks [block, block_end) of what layer s writes.
  void clear_padding(const Map<T>& map, int64_t s, int64_t block, int64_t block_end, int64_t begin,
                     int64_t end) const {
    cpu::clear_padding(map, block, block_end, begin, end, layers[s].left, layers[s].stage.out_w);
  }

  // Rows [begin, end) of the group's output.
  void run_rows(int64_t n, int64_t first, const Map<T>& in, const Map<T>& out, int64_t begin, int64_t end) const {
    const int64_t last = layers[first].group_end - 1;
    Progress progress;
    progress.n = n, progress.in = in, progress.staged = 0;
    int64_t elements = 0;
    for (int64_t s = first; s < last; ++s) elements += layers[s].map_elements();
    const bool from_x = first == 0 && layers[0].stage.separable;
    const Layer<T, E>& head = layers[first];
    const int64_t in_rows = smaller(head.stage.in_h, rows_spanned(head.stage.window, head.step));
    const int64_t in_elements =
        from_x ? blocks_of<A>(head.stage.in_channels) * in_rows * columns_spanned(head.dw) * kL : 0;
    T* memory = workspace<T>(Slot::kMaps, elements + in_elements);
    progress.out[last] = out;
    if (last + 1 < count) clear_padding(out, last, 0, layers[last].blocks, begin, end);
    for (int64_t s = first; s < last; ++s) {
      progress.out[s] = {memory, layers[s].rows, layers[s].columns};
      clear_padding(progress.out[s], s, 0, layers[s].blocks, 0, layers[s].rows);
      memory += layers[s].map_elements();
    }
    if (from_x) {
      progress.in = {memory, in_rows, columns_spanned(head.dw)};
      cpu::clear_padding(progress.in, 0, blocks_of<A>(head.stage.in_channels), 0, in_rows, head.stage.window.pad_left,
                         head.stage.in_w);
    }
    progress.begin[last] = begin, progress.end[last] = end;
    for (int64_t s = last; s > first; --s) {
      const Window& w = layers[s].stage.window;
      progress.begin[s - 1] = larger<int64_t>(0, progress.begin[s] * w.stride_h - w.pad_top);
      progress.end[s - 1] = rows_needed(s, progress.end[s]);
    }
    for (int64_t s = first; s <= last; ++s) progress.done[s] = progress.begin[s];
    ensure(progress, first, last, end);
  }

  // Input rows that layer s reads for its output rows up to `end`, counted from the top.
  int64_t rows_needed(int64_t s, int64_t end) const {
    const ChainStage& g = layers[s].stage;
    return larger<int64_t>(
        0, smaller(g.in_h, (end - 1) * g.window.stride_h - g.window.pad_top + rows_spanned(g.window, 1)));
  }

  void ensure(Progress& progress, int64_t first, int64_t s, int64_t end) const {
    while (progress.done[s] < end) {
      const int64_t row = progress.done[s], row_end = smaller(row + layers[s].step, progress.end[s]);
      if (s > first) ensure(progress, first, s - 1, rows_needed(s, row_end));
      if (layers[s].stage.separable) {
        make_separable(progress, first, s, row, row_end);
      } else {
        make_dense(progress, s, row, row_end);
      }
      progress.done[s] = row_end;
    }
  }

  // Where output rows [row, row_end) of layer s go.
  Output<T> output_rows(const Map<T>& out, int64_t n, int64_t s, int64_t row, int64_t row_end) const {
    const Layer<T, E>& l = layers[s];
    const int64_t width = l.stage.out_w;
    int64_t* y_row = workspace<int64_t>(Slot::kOffsets, (row_end - row) * width);
    const bool to_y = s + 1 == count;
    for (int64_t oh = row, m = 0; oh < row_end; ++oh) {
      const int64_t start = to_y ? oh * p.y_stride.h : oh % out.rows * out.row_size() + l.left * kL;
      const int64_t step = to_y ? p.y_stride.w : kL;
      for (int64_t ow = 0; ow < width; ++ow, ++m) y_row[m] = start + ow * step;
    }
    T* y = to_y ? static_cast<T*>(p.y) + n * p.y_stride.n : out.data;
    Output<T> output{y, y_row, (row_end - row) * width, to_y ? kL : out.block_size(), 1, l.stage.activation};
    output.far = !to_y && out.far;
    return output;
  }
  int64_t output_columns(int64_t s) const {
    return s + 1 == count ? layers[s].stage.out_channels : layers[s].blocks * kL;
  }

  void make_separable(Progress& progress, int64_t first, int64_t s, int64_t row, int64_t row_end) const {
    const Layer<T, E>& l = layers[s];
    const int64_t width = l.stage.out_w, blocks = blocks_of<A>(l.stage.in_channels), pixels = (row_end - row) * width;
    const Map<T>& in = s > first ? progress.out[s - 1] : progress.in;
    if (s == 0) {
      const int64_t needed = rows_needed(0, row_end);
      progress.staged = larger(progress.staged, row * l.stage.window.stride_h - l.stage.window.pad_top);
      for (; progress.staged < needed; ++progress.staged) stage_row(l.dw, progress.n, progress.staged, 0, blocks, in);
    }
    E* middle = workspace<E>(Slot::kTile, l.weights.left_elements(l.step * width));
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, pixels);
    l.weights.place(pixels, offsets);
    depthwise_band(l.dw, l.runs, l.weights.dw, in, 0, 0, blocks, row, row_end, middle, l.weights.block_step(),
                   offsets);
    l.weights.complete(middle, pixels, 0, l.weights.blocks());
    const E* next = s + 1 < count && s + 1 == l.group_end ? layers[s + 1].weights.panels : nullptr;
    l.weights.multiply(output_rows(progress.out[s], progress.n, s, row, row_end), middle, pixels, output_columns(s),
                       0, l.weights.panel_count, next);
  }

  void make_dense(Progress& progress, int64_t s, int64_t row, int64_t row_end) const {
    const Layer<T, E>& l = layers[s];
    const StemRows<T, E> rows(l.stem, row_end - row);
    const Output<T> out = output_rows(progress.out[s], progress.n, s, row, row_end);
    rows.multiply(progress.n, row, row_end, out, l.weights.panels, l.weights.bias, output_columns(s));
  }

  // A separable block whose rows are too few for the threads: they share out its output channels. Each makes the
  // depthwise half for itself, while that takes it next to no time: reading another core's cache takes longer.
  void run_shared(int64_t n, int64_t s, const Map<T>& in, const Map<T>& out, const Threads& threads) const {
    const Layer<T, E>& l = layers[s];
    const int64_t height = l.stage.out_h, pixels = l.stage.out_w * height;
    const int64_t taps = int64_t{l.stage.window.kernel_h} * l.stage.window.kernel_w;
    const int64_t panels = l.weights.panel_count;
    const auto multiply = [&](const E* middle, int64_t begin, int64_t end) {
      if (s + 1 < count) clear_padding(out, s, l.blocks * begin / panels, l.blocks * end / panels, 0, height);
      l.weights.multiply(output_rows(out, n, s, 0, height), middle, pixels, output_columns(s), begin, end);
    };
    if (16 * taps * threads.count <= l.stage.out_channels) {
      return parallel(threads, panels, [&](int64_t begin, int64_t end) {
        E* middle = workspace<E>(Slot::kTile, l.weights.left_elements(pixels));
        make_middle(s, in, middle, 0, l.weights.blocks());
        multiply(middle, begin, end);
      });
    }
    E* middle = workspace<E>(Slot::kTile, l.weights.left_elements(pixels));
    parallel(threads, l.weights.blocks(),
             [&](int64_t begin, int64_t end) { make_middle(s, in, middle, begin, end); });
    parallel(threads, panels, [&](int64_t begin, int64_t end) { multiply(middle, begin, end); });
  }

  // The depthwise half of layer s: of each part of the channels that is completed together, blocks [begin, end).
  void make_middle(int64_t s, const Map<T>& in, E* middle, int64_t begin, int64_t end) const {
    const Layer<T, E>& l = layers[s];
    const int64_t height = l.stage.out_h, pixels = l.stage.out_w * height, step = l.weights.block_step();
    int64_t* offsets = workspace<int64_t>(Slot::kTileOffsets, pixels);
    l.weights.place(pixels, offsets);
    for (int64_t first = 0; first < blocks_of<A>(l.stage.in_channels); first += l.weights.blocks()) {
      depthwise_band(l.dw, l.runs, l.weights.dw, in, 0, first + begin, first + end, 0, height,
                     middle + (first + begin) * step, step, offsets);
    }
    l.weights.complete(middle, pixels, begin, end);
  }

  static Threads one_thread() {
    return {[](int64_t items, void (*body)(const void*, int64_t, int64_t), const void* context) {
              body(context, 0, items);
            },
            1};
  }

  const ChainParams& p;
  int64_t count;
  Layer<T, E>* layers;
  int64_t shared_elements = 0, largest_map = 0;  // of the maps between groups
};

inline void run_chain(const ChainParams& p, const Threads& threads) {
  with_dtype(p.dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { Chain<decltype(type), decltype(operand)>(p).run(threads); });
  });
}

inline int64_t packed_bytes(const ChainStage& stage, DType dtype) {
  int64_t bytes = 0;
  with_dtype(dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { bytes = PackedStage<decltype(type), decltype(operand)>(stage).bytes; });
  });
  return bytes;
}

inline void pack(const ChainStage& stage, DType dtype, const SeparableConv2dParams& weights, const Threads& threads) {
  with_dtype(dtype, [&](auto type) {
    with_operand(type, [&](auto operand) { pack_stage<decltype(type), decltype(operand)>(stage, weights, threads); });
  });
}

}  // namespace
}  // namespace mbv1::cpu
