// All chunks of a self-modifying layer, forward and backward, for every sample and head.
//
// A sample and head is one task: its weights and tiles stay in a core's cache from chunk to chunk. Only the
// change at the start of every chunk, or of every few, is kept for the backward pass; the rest is computed again.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "chunk_backward.h"

namespace nest {
namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

//! Tensors of a call, as listed in the schema below.
struct Inputs {
  Tensor key, value, query;        // [B, H, e, L] with tokens side by side
  Tensor base_outer, base_inner;   // [M, H, e, h] and [M, H, h, e], or empty
  Tensor outer, inner;             // running, [N, M, e, h] and [N, M, h, e]; matrix memories have no outer weights
  Tensor held_outer, held_inner;   // snapshots, the same shapes
  Tensor gate_weight, gate_bias;   // [2, H, e] and [2, H]
  Tensor scale;                    // [M, H]
};

Inputs inputs(const Tensors& t) {
  TORCH_CHECK(t.size() == 12, "self_modifying: expected 12 tensors, got ", t.size());
  return {t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11]};
}

//! Refuse what the pointers below could not read: these are checked once more, whoever calls.
void check(const Inputs& in) {
  TORCH_CHECK(in.key.dim() == 4 && in.inner.dim() == 4 && in.scale.dim() == 2, "self_modifying: wrong dimensions");
  const int64_t B = in.key.size(0), H = in.key.size(1), e = in.key.size(2), L = in.key.size(3);
  const int64_t M = in.inner.size(1), h = in.inner.size(2);
  auto is = [&](const Tensor& x, std::initializer_list<int64_t> shape, const char* name) {
    TORCH_CHECK(x.sizes() == at::IntArrayRef(shape) && x.is_contiguous() && x.scalar_type() == in.key.scalar_type(),
                "self_modifying: ", name, " is ", x.sizes(), " of ", x.scalar_type(), ", needs ",
                at::IntArrayRef(shape), " of ", in.key.scalar_type(), ", contiguous");
  };
  for (const Tensor* stream : {&in.key, &in.value, &in.query})
    TORCH_CHECK(stream->sizes() == in.key.sizes() && stream->scalar_type() == in.key.scalar_type() &&
                    (stream->stride(3) == 1 || L == 1) && L > 0,
                "self_modifying: a stream is ", stream->sizes(), ", needs ", in.key.sizes(), ", tokens side by side");
  TORCH_CHECK(e % kPad == 0 && h % kPad == 0, "self_modifying: widths ", e, " and ", h, " are no multiples of ", kPad);
  is(in.inner, {B * H, M, h, e}, "inner");
  is(in.held_inner, {B * H, M, h, e}, "inner snapshot");
  if (in.base_inner.numel() > 0) is(in.base_inner, {M, H, h, e}, "inner initial state");
  if (in.outer.numel() > 0) {
    is(in.outer, {B * H, M, e, h}, "outer");
    is(in.held_outer, {B * H, M, e, h}, "outer snapshot");
    if (in.base_inner.numel() > 0) is(in.base_outer, {M, H, e, h}, "outer initial state");
  } else {
    TORCH_CHECK(e == h, "self_modifying: matrix memories are square");
  }
  is(in.gate_weight, {2, H, e}, "gate weight");
  is(in.gate_bias, {2, H}, "gate bias");
  is(in.scale, {M, H}, "write scale");
}

struct Plan {
  int64_t N, L, H, position, chunk, every;
  std::vector<int64_t> starts;  // of every piece, and the end
  bool rest;
  //! Whether a piece begins with a snapshot that is older than the running weights.
  bool old(size_t piece) const { return piece == 0 && position != 0; }
  //! Whether the call ends within a chunk that it began.
  bool open() const { return (position + L) % chunk != 0 && !old(pieces() - 1); }
  size_t pieces() const { return starts.size() - 1; }
  //! States that are kept for the backward pass.
  int64_t kept() const { return (pieces() + every - 1) / every; }
};

Plan plan_of(const Inputs& in, int64_t position, int64_t chunk, int64_t every) {
  Plan plan{in.inner.size(0), in.key.size(3),          in.scale.size(1), position, chunk, every,
            {0},              in.base_inner.numel() > 0};
  int64_t end = std::min(plan.L, chunk - position);
  for (; plan.starts.back() < plan.L; end = std::min(plan.L, end + chunk)) plan.starts.push_back(end);
  return plan;
}

template <typename T>
Setting<T> setting_of(const Inputs& in, at::IntArrayRef places, bool bound, bool gated, double rate_max) {
  return {in.inner.size(3), in.inner.size(2), in.inner.size(1), in.outer.numel() == 0, places[0], places[1], places[2],
          places[3], bound, gated, static_cast<T>(rate_max)};
}

//! Room for the weights of some memories.
template <typename T>
Pair<T> take_pair(Arena<T>& arena, const Setting<T>& o, int64_t memories) {
  const int64_t count = memories * o.e * o.h;
  return {arena.take(count), o.matrix ? nullptr : arena.take(count)};
}

//! Calls a function with each weight array of one pair, or with the corresponding ones of two.
template <typename T, typename F>
void each(const Setting<T>& o, F function, const Pair<T>& a, const Pair<T>& b) {
  function(a.inner, b.inner);
  if (!o.matrix) function(a.outer, b.outer);
}

template <typename T>
Pair<T> zero_pair(Arena<T>& arena, const Setting<T>& o, int64_t memories) {
  const Pair<T> pair = take_pair(arena, o, memories);
  each(o, [&](T* x, T*) { std::fill(x, x + memories * o.e * o.h, T(0)); }, pair, pair);
  return pair;
}

template <typename T>
void add(const Setting<T>& o, int64_t memories, const Pair<T>& from, const Pair<T>& to) {
  each(o, [&](T* x, T* y) { axpy(memories * o.e * o.h, T(1), x, y); }, from, to);
}

template <typename T>
void copy(const Setting<T>& o, int64_t memories, const Pair<T>& from, const Pair<T>& to) {
  each(o, [&](T* x, T* y) { std::copy(x, x + memories * o.e * o.h, y); }, from, to);
}

//! The weights of one sample and head in a pair of tensors.
template <typename T>
Pair<T> at(const Setting<T>& o, const Tensor& inner, const Tensor& outer, int64_t n) {
  const int64_t all = o.M * o.e * o.h;
  return {inner.data_ptr<T>() + n * all, o.matrix ? nullptr : outer.data_ptr<T>() + n * all};
}

//! One head's parameters and its transposed initial states.
template <typename T>
struct Local {
  Head<T> head;
  Pair<T> base;
};

template <typename T>
Local<T> local(Arena<T>& arena, const Setting<T>& o, const Plan& plan, const Inputs& in, int64_t n) {
  const int64_t head = n % plan.H, S = o.e * o.h;
  const T *weight = in.gate_weight.data_ptr<T>(), *bias = in.gate_bias.data_ptr<T>();
  T* scale = arena.take(o.M);
  for (int64_t m = 0; m < o.M; ++m) scale[m] = in.scale.data_ptr<T>()[m * plan.H + head];
  Local<T> here{{weight + head * o.e, weight + (plan.H + head) * o.e, bias[head], bias[plan.H + head], scale}, {}};
  if (plan.rest) {
    here.base = take_pair(arena, o, o.M);
    for (int64_t m = 0; m < o.M; ++m) {
      const int64_t from = (m * plan.H + head) * S;
      transpose(o.h, o.e, in.base_inner.data_ptr<T>() + from, here.base.inner + m * S, o.h);
      if (!o.matrix) transpose(o.e, o.h, in.base_outer.data_ptr<T>() + from, here.base.outer + m * S, o.e);
    }
  }
  return here;
}

//! All memories of one sample and head, [outputs, inputs] to [inputs, outputs] or back.
template <typename T>
void turn(const Setting<T>& o, const Pair<T>& from, const Pair<T>& to, bool into) {
  const int64_t S = o.e * o.h, e = into ? o.e : o.h, h = into ? o.h : o.e;
  for (int64_t m = 0; m < o.M; ++m) {
    transpose(h, e, from.inner + m * S, to.inner + m * S, h);
    if (!o.matrix) transpose(e, h, from.outer + m * S, to.outer + m * S, e);
  }
}

//! The memories: initial states plus change.
template <typename T>
Pair<T> memories(Arena<T>& arena, const Setting<T>& o, const Pair<T>& base, const Pair<T>& change) {
  if (base.inner == nullptr) return change;
  const Pair<T> memory = take_pair(arena, o, o.M);
  copy(o, o.M, base, memory);
  add(o, o.M, change, memory);
  return memory;
}

//! The tokens of one piece as rows, from or to `[B, H, e, L]`.
template <typename T>
T* load(Arena<T>& arena, const Setting<T>& o, const Plan& plan, const Tensor& x, int64_t n, int64_t start, int64_t C) {
  T* tile = arena.take(C * o.e);
  const T* from = x.data_ptr<T>() + n / plan.H * x.stride(0) + n % plan.H * x.stride(1) + start;
  transpose(o.e, C, from, x.stride(2), tile, o.e);
  return tile;
}

template <typename T>
void store(const Setting<T>& o, const Plan& plan, const T* tile, const Tensor& x, int64_t n, int64_t start, int64_t C) {
  T* to = x.data_ptr<T>() + n * o.e * plan.L + start;
  // Row by row: padding after the last token would be the next channel's first.
  for (int64_t i = 0; i < o.e; ++i)
    for (int64_t t = 0; t < C; ++t) to[i * plan.L + t] = tile[t * o.e + i];
}

//! Where a token's reads are in `[B, L, H, e]`.
template <typename T>
T* reads_at(const Tensor& y, const Setting<T>& o, const Plan& plan, int64_t n, int64_t token) {
  return y.data_ptr<T>() + ((n / plan.H * plan.L + token) * plan.H + n % plan.H) * o.e;
}

template <typename T>
Arena<T>& arena_of_thread() {
  thread_local Arena<T> arena;
  return arena;
}

//! One piece: reads and the change after it.
template <typename T>
void forward_piece(Arena<T>& arena, const Setting<T>& o, const Local<T>& here, int64_t C, const T* xk, const T* xv,
                   const T* xq, const Pair<T>& memory, const Pair<T>& change, const Pair<T>& after, T* y) {
  const int64_t e = o.e, h = o.h, S = e * h;
  Projected<T> p = take_projected(arena, o, C);
  Written<T> w = take_written(arena, o, C);
  Reading<T> r = take_reading(arena, o, C);
  project(arena, o, here.head, C, xk, xv, xq, memory, p);
  T* outer = arena.take(S);
  for (int64_t m = 0; m < o.M; ++m) {
    if (!o.matrix) transpose(h, e, memory.outer + m * S, outer, h);
    write(arena, o, here.head, C, m, p, memory, outer, change, w);
    if (m + 1 == o.M) read_main(arena, o, C, p, w, change, here.base, r, y);
    const T gamma = p.gamma[C - 1];
    carry(C, e, h, gamma, change.inner + m * S, p.end_key, w.erased_in, after.inner + m * S);
    if (!o.matrix) carry(C, h, e, gamma, change.outer + m * S, w.end_phi, w.erased_out, after.outer + m * S);
  }
}

template <typename T>
Tensors forward_typed(const Inputs& in, const Setting<T>& o, const Plan& plan, bool save) {
  const int64_t S = o.e * o.h, all = o.M * S, pieces = plan.pieces();
  Tensor y = at::empty({plan.N / plan.H, plan.L, plan.H, o.e}, in.key.options()), outer = at::empty_like(in.outer), inner = at::empty_like(in.inner);
  const bool open = plan.open();
  Tensor held_outer = open ? at::empty_like(outer) : at::empty({0}, outer.options());
  Tensor held_inner = open ? at::empty_like(inner) : at::empty({0}, inner.options());
  Tensor saved = at::empty({plan.N, save ? plan.kept() : 0, o.layers() * all}, in.key.options());
  at::parallel_for(0, plan.N, 1, [&](int64_t begin, int64_t end) {
    FlushDenormals flush;
    Arena<T>& arena = arena_of_thread<T>();
    arena.reset();
    for (int64_t n = begin; n < end; ++n) {
      const auto outside = arena.mark();
      const Local<T> here = local(arena, o, plan, in, n);
      const Pair<T> change = take_pair(arena, o, o.M), held = take_pair(arena, o, o.M);
      turn(o, at(o, in.inner, in.outer, n), change, true);
      if (plan.old(0))
        turn(o, at(o, in.held_inner, in.held_outer, n), held, true);
      for (int64_t i = 0; i < pieces; ++i) {
        const auto inside = arena.mark();
        const int64_t start = plan.starts[i], C = plan.starts[i + 1] - start;
        if (save && i % plan.every == 0) {
          T* kept = saved.data_ptr<T>() + (n * plan.kept() + i / plan.every) * o.layers() * all;
          copy(o, o.M, change, {kept, kept + all});
        }
        if (open && i + 1 == pieces)
          turn(o, change, at(o, held_inner, held_outer, n), false);
        const Pair<T> memory = memories(arena, o, here.base, plan.old(i) ? held : change);
        // Without initial states the memories are the change itself, which must not change while it is read.
        const Pair<T> after = here.base.inner == nullptr ? take_pair(arena, o, o.M) : change;
        const T *xk = load(arena, o, plan, in.key, n, start, C), *xv = load(arena, o, plan, in.value, n, start, C),
                *xq = load(arena, o, plan, in.query, n, start, C);
        T* reads = arena.take(C * o.e);
        forward_piece(arena, o, here, C, xk, xv, xq, memory, change, after, reads);
        for (int64_t t = 0; t < C; ++t)
          std::copy(reads + t * o.e, reads + (t + 1) * o.e, reads_at(y, o, plan, n, start + t));
        if (after.inner != change.inner) copy(o, o.M, after, change);
        arena.release(inside);
      }
      turn(o, change, at(o, inner, outer, n), false);
      arena.release(outside);
    }
  });
  return {y, outer, inner, held_outer, held_inner, saved};
}

//! Gradients by the inputs of one piece; `weights` holds those by the state after it and becomes those before.
template <typename T>
void backward_piece(Arena<T>& arena, const Setting<T>& o, const Local<T>& here, int64_t C, const T* xk, const T* xv,
                    const T* xq, const Pair<T>& memory, const Pair<T>& turned, const Pair<T>& change, const T* dy,
                    WeightGradient<T>& weights, HeadGradient<T>& by, T* dk, T* dv, T* dq) {
  const int64_t e = o.e, h = o.h, S = e * h, main = (o.M - 1) * S;
  Projected<T> p = take_projected(arena, o, C);
  Written<T> w = take_written(arena, o, C);
  Reading<T> r = take_reading(arena, o, C);
  ProjectedGradient<T> g = take_gradient(arena, o, C);
  project(arena, o, here.head, C, xk, xv, xq, memory, p);
  T *by_phi = arena.take(C * h), *by_in = arena.take(C * h), *by_out = arena.take(C * e);
  T *by_mid = arena.take(C * h), *by_linear = arena.take(C * h), *y = arena.take(C * e);
  T *read_inner = arena.take(S), *read_outer = arena.take(S);
  for (int64_t m = o.M - 1; m >= 0; --m) {
    write(arena, o, here.head, C, m, p, memory, turned.outer + m * S, change, w);
    std::fill(by_phi, by_phi + C * h, T(0));
    std::fill(by_in, by_in + C * h, T(0));
    std::fill(by_out, by_out + C * e, T(0));
    const bool last = m + 1 == o.M, rest = here.base.inner != nullptr;
    if (last) {
      read_main(arena, o, C, p, w, change, here.base, r, y);
      const T* by_first = dy;
      if (!o.matrix) {
        read_running_backward(arena, C, h, e, p, r.mid, change.outer + main, rest ? here.base.outer + main : nullptr,
                              w.at_k.phi, w.erased_out, r.held_out, r.mid_phi, r.mid_pairs, dy, by_mid, by_phi,
                              by_out, read_outer, weights.base.outer, g);
        features_backward(C, h, r.linear, r.sigma, r.mid, r.mid_scale, by_mid, by_linear);
        by_first = by_linear;
      }
      read_running_backward(arena, C, e, h, p, p.q, change.inner + main, rest ? here.base.inner + main : nullptr,
                            p.k, w.erased_in, r.held_in, r.q_k, r.q_pairs, by_first, g.q, g.k, by_in, read_inner,
                            weights.base.inner, g);
    }
    write_backward(arena, o, here.head, C, m, p, w, memory, turned, change, by_phi, by_in, by_out, g, weights, by);
    if (last) {
      axpy(S, T(1), read_inner, weights.after.inner + main);
      if (!o.matrix) axpy(S, T(1), read_outer, weights.after.outer + main);
    }
  }
  project_backward(arena, o, here.head, C, xk, xv, p, turned, g, weights, by, dk, dv, dq);
}

//! Where the gradients of one sample and head go, in the order of the inputs.
struct Gradients {
  Tensor key, value, query, base_outer, base_inner, outer, inner, held_outer, held_inner, gate_weight, gate_bias,
      scale;
};

//! The changes at the start of the pieces of one segment, from the one that was kept.
template <typename T>
std::vector<Pair<T>> states(Arena<T>& arena, const Setting<T>& o, const Plan& plan, const Local<T>& here,
                            const Inputs& in, const Tensor& saved, int64_t n, int64_t first, int64_t last) {
  const int64_t all = o.M * o.e * o.h;
  T* kept = saved.data_ptr<T>() + (n * plan.kept() + first / plan.every) * o.layers() * all;
  std::vector<Pair<T>> found{{kept, kept + all}};
  for (int64_t i = first + 1; i < last; ++i) found.push_back(take_pair(arena, o, o.M));
  for (int64_t i = first; i + 1 < last; ++i) {
    const auto mark = arena.mark();
    const int64_t start = plan.starts[i], C = plan.starts[i + 1] - start;
    const Pair<T>& change = found[i - first];
    Pair<T> held = change;
    if (plan.old(i)) {
      held = take_pair(arena, o, o.M);
      turn(o, at(o, in.held_inner, in.held_outer, n), held, true);
    }
    const Pair<T> memory = memories(arena, o, here.base, held);
    const T *xk = load(arena, o, plan, in.key, n, start, C), *xv = load(arena, o, plan, in.value, n, start, C),
            *xq = load(arena, o, plan, in.query, n, start, C);
    forward_piece(arena, o, here, C, xk, xv, xq, memory, change, found[i - first + 1], arena.take(C * o.e));
    arena.release(mark);
  }
  return found;
}

template <typename T>
void backward_one(const Inputs& in, const Setting<T>& o, const Plan& plan, const Tensor& saved, const Tensors& given,
                  Gradients& out, int64_t n) {
  Arena<T>& arena = arena_of_thread<T>();
  const auto outside = arena.mark();
  const int64_t S = o.e * o.h, all = o.M * S, pieces = plan.pieces(), main = (o.M - 1) * S;
  const Local<T> here = local(arena, o, plan, in, n);
  WeightGradient<T> weights{{}, zero_pair(arena, o, o.M), zero_pair(arena, o, 1)};
  const Pair<T> base = zero_pair(arena, o, o.M), held = take_pair(arena, o, o.M), turned = take_pair(arena, o, o.M);
  auto state = [&](const Tensor& inner, const Tensor& outer, const Pair<T>& to) {
    turn(o, at(o, inner, outer, n), to, true);
  };
  state(given[2], given[1], weights.after);
  T* gate = out.gate_weight.data_ptr<T>() + n * 2 * o.e;
  T* bias = out.gate_bias.data_ptr<T>() + n * 2;
  HeadGradient<T> by{gate, gate + o.e, bias, bias + 1, out.scale.data_ptr<T>() + n * o.M};
  for (int64_t first = (plan.kept() - 1) * plan.every; first >= 0; first -= plan.every) {
    const int64_t last = std::min(first + plan.every, pieces);
    const auto segment = arena.mark();
    const auto changes = states(arena, o, plan, here, in, saved, n, first, last);
    for (int64_t i = last - 1; i >= first; --i) {
      const auto inside = arena.mark();
      const int64_t start = plan.starts[i], C = plan.starts[i + 1] - start;
      const Pair<T>& change = changes[i - first];
      if (plan.old(i)) state(in.held_inner, in.held_outer, held);
      const Pair<T> memory = memories(arena, o, here.base, plan.old(i) ? held : change);
      turn(o, memory, turned, false);
      weights.memory = zero_pair(arena, o, o.M);
      const T *xk = load(arena, o, plan, in.key, n, start, C), *xv = load(arena, o, plan, in.value, n, start, C),
              *xq = load(arena, o, plan, in.query, n, start, C);
      T *dy = arena.take(C * o.e), *dk = arena.take(C * o.e), *dv = arena.take(C * o.e), *dq = arena.take(C * o.e);
      for (int64_t t = 0; t < C; ++t) {
        const T* from = reads_at(given[0], o, plan, n, start + t);
        std::copy(from, from + o.e, dy + t * o.e);
      }
      backward_piece(arena, o, here, C, xk, xv, xq, memory, turned, change, dy, weights, by, dk, dv, dq);
      store(o, plan, dk, out.key, n, start, C);
      store(o, plan, dv, out.value, n, start, C);
      store(o, plan, dq, out.query, n, start, C);
      if (i + 1 == pieces && plan.open()) {
        state(given[4], given[3], held);  // by the snapshot of a chunk that goes on: the change before this piece
        add(o, o.M, held, weights.after);
      }
      if (plan.rest) add(o, o.M, weights.memory, base);
      if (plan.old(i))
        turn(o, weights.memory, at(o, out.held_inner, out.held_outer, n), false);
      else
        add(o, o.M, weights.memory, weights.after);
      arena.release(inside);
    }
    arena.release(segment);
  }
  turn(o, weights.after, at(o, out.inner, out.outer, n), false);
  if (plan.rest) {
    add(o, 1, weights.base, {base.inner + main, base.outer + main});
    turn(o, base, at(o, out.base_inner, out.base_outer, n), false);
  }
  arena.release(outside);
}

template <typename T>
Tensors backward_typed(const Inputs& in, const Setting<T>& o, const Plan& plan, const Tensor& saved,
                       const Tensors& given) {
  const auto options = in.key.options();
  const int64_t N = plan.N;
  const std::vector<int64_t> shape{N / plan.H, plan.H, o.e, plan.L};
  Gradients out{at::empty(shape, options), at::empty(shape, options), at::empty(shape, options),
                at::empty({plan.rest && !o.matrix ? N : 0, o.M, o.e, o.h}, options),
                at::empty({plan.rest ? N : 0, o.M, o.h, o.e}, options), at::empty_like(in.outer),
                at::empty_like(in.inner), at::zeros_like(in.outer), at::zeros_like(in.inner),
                at::zeros({N, 2, o.e}, options), at::zeros({N, 2}, options), at::zeros({N, o.M}, options)};
  at::parallel_for(0, N, 1, [&](int64_t begin, int64_t end) {
    FlushDenormals flush;
    arena_of_thread<T>().reset();
    for (int64_t n = begin; n < end; ++n) backward_one(in, o, plan, saved, given, out, n);
  });
  // Samples of one head share its parameters.
  auto total = [&](const Tensor& x) {
    if (x.size(0) == 0) return x;
    return x.unflatten(0, {N / plan.H, plan.H}).sum(0).transpose(0, 1).contiguous();
  };
  return {out.key,   out.value,      out.query,      total(out.base_outer),  total(out.base_inner), out.outer,
          out.inner, out.held_outer, out.held_inner, total(out.gate_weight), total(out.gate_bias),  total(out.scale)};
}

Tensors forward(Tensors tensors, at::IntArrayRef places, bool bound, bool gated, double rate_max, int64_t position,
                int64_t chunk, int64_t every, bool save) {
  const Inputs in = inputs(tensors);
  check(in);
  const Plan plan = plan_of(in, position, chunk, every);
  return AT_DISPATCH_FLOATING_TYPES(in.key.scalar_type(), "self_modifying_forward", [&] {
    return forward_typed<scalar_t>(in, setting_of<scalar_t>(in, places, bound, gated, rate_max), plan, save);
  });
}

Tensors backward(Tensors tensors, Tensor saved, Tensors given, at::IntArrayRef places, bool bound, bool gated,
                 double rate_max, int64_t position, int64_t chunk, int64_t every) {
  const Inputs in = inputs(tensors);
  check(in);
  const Plan plan = plan_of(in, position, chunk, every);
  for (const Tensor& x : given) TORCH_CHECK(x.is_contiguous() && x.scalar_type() == in.key.scalar_type(), "layout");
  TORCH_CHECK(given.size() == 5 && saved.is_contiguous() && saved.size(1) == plan.kept(), "self_modifying: gradients");
  return AT_DISPATCH_FLOATING_TYPES(in.key.scalar_type(), "self_modifying_backward", [&] {
    return backward_typed<scalar_t>(in, setting_of<scalar_t>(in, places, bound, gated, rate_max), plan, saved, given);
  });
}

}  // namespace
}  // namespace nest

TORCH_LIBRARY(nestlearn, library) {
  library.def(
      "self_modifying_forward(Tensor[] tensors, int[] places, bool bound, bool gated, float rate_max, int position, "
      "int chunk, int every, bool save) -> Tensor[]");
  library.def(
      "self_modifying_backward(Tensor[] tensors, Tensor saved, Tensor[] given, int[] places, bool bound, "
      "bool gated, float rate_max, int position, int chunk, int every) -> Tensor[]");
}

TORCH_LIBRARY_IMPL(nestlearn, CPU, library) {
  library.impl("self_modifying_forward", nest::forward);
  library.impl("self_modifying_backward", nest::backward);
}
