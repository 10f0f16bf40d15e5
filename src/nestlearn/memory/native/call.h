// The tensors of one call: what they must be, how they are divided into pieces, and where a sample and head is.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "chunk_backward.h"

namespace nest {

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

inline Inputs inputs(const Tensors& t) {
  TORCH_CHECK(t.size() == 12, "self_modifying: expected 12 tensors, got ", t.size());
  return {t[0], t[1], t[2], t[3], t[4], t[5], t[6], t[7], t[8], t[9], t[10], t[11]};
}

//! Refuse what the pointers below could not read: these are checked once more, whoever calls.
inline void check(const Inputs& in) {
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

inline Plan plan_of(const Inputs& in, int64_t position, int64_t chunk, int64_t every) {
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

}  // namespace nest
