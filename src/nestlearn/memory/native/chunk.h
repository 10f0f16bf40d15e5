// One chunk of a self-modifying layer for one sample and head, forward: SPEC 4.4, as in step.py.
//
// Weights are held as [inputs, outputs], the transposes of a memory's state, so that a row of tokens times a
// weight is a plain product. Letters: C tokens of the piece, P tokens padded, e and h widths, M memories.
#pragma once

#include <vector>

#include "arena.h"
#include "functions.h"
#include "products.h"

namespace nest {

//! What is the same for every sample, head and chunk.
template <typename T>
struct Setting {
  int64_t e, h, M;  // h = e for matrix memories
  bool matrix;
  //! Places of the projection memories in the stack, or -1 where the projection is static.
  int64_t key, rate, retention, value;
  bool bound, gated;  // the rate by the retention; the retention by the tokens
  T rate_max;

  int64_t layers() const { return matrix ? 1 : 2; }
};

//! What belongs to one head: read-outs of the gates and the memories' write scales. Where retention is not gated,
//! its bias is the logarithm itself.
template <typename T>
struct Head {
  const T *rate_weight, *retention_weight;
  T rate_bias, retention_bias;
  const T* scale;
};

//! A memory read at some tokens: `f(z) = phi(z W2) W1`.
template <typename T>
struct Read {
  T *linear, *sigma, *phi, *scale;
};

//! The two weights of all memories, [M, e, h] and [M, h, e]; matrix memories have the first only, [M, e, e].
template <typename T>
struct Pair {
  T *inner, *outer;
};

//! What the projections give: keys, values, queries, gates and their products.
template <typename T>
struct Projected {
  T *k, *v, *q, *k_scale, *q_scale;
  T *rate_in, *retention_in;           // reads of the gates' memories [C, e]
  Read<T> at_x[4], at_v[4];            // by place in the stack
  T *target[4], *target_scale[4];      // unit(v + f(v))
  T *sigma_rate, *eta, *log_alpha, *alpha;
  T *gamma, *before;                   // products of retentions up to and before each token
  T *ratio, *pairs;                    // [C, P]: gamma_t / gamma_s and eta_s gamma_t / gamma_s, s <= t
  T *end_key;                          // eta_s gamma_C / gamma_s k_s
  T *gram, *inverse;                   // of the keys' system
};

//! One memory's write.
template <typename T>
struct Written {
  Read<T> at_k;
  T *surprise, *back, *hidden;         // -g, its way to the features, and through them
  T *known_in, *known_out;             // what the change holds at the keys
  T *erased_in, *erased_out;           // u_t of both matrices
  T *end_phi, *gram, *inverse;
};

//! The main memory's read.
template <typename T>
struct Reading {
  T *held_in, *linear, *sigma, *mid, *mid_scale, *held_out;
  T *q_k, *q_pairs, *mid_phi, *mid_pairs;
};

template <typename T>
Read<T> take_read(Arena<T>& arena, int64_t C, int64_t h) {
  return {arena.take(C * h), arena.take(C * h), arena.take(C * h), arena.take(C)};
}

//! The hidden side of `f` at some tokens.
template <typename T>
void read_hidden(const Setting<T>& o, int64_t C, const T* z, const T* inner, Read<T>& r) {
  nn(C, o.h, o.e, z, o.e, inner, r.linear, false);
  features(C, o.h, r.linear, r.sigma, r.phi, r.scale);
}

//! `out = z + f(z)`.
template <typename T>
void read_memory(const Setting<T>& o, int64_t C, const T* z, const Pair<T>& memory, int64_t m, Read<T>& r,
                 T* out) {
  std::copy(z, z + C * o.e, out);
  if (o.matrix) return nn(C, o.e, o.e, z, o.e, memory.inner + m * o.e * o.e, out, true);
  read_hidden(o, C, z, memory.inner + m * o.e * o.h, r);
  nn(C, o.e, o.h, r.phi, o.h, memory.outer + m * o.e * o.h, out, true);
}

template <typename T>
T log_sigmoid(T x) {
  return std::min(x, T(0)) - std::log1p(std::exp(-std::abs(x)));
}

//! Learning rates, retentions, and their products between every two tokens.
template <typename T>
void gates(const Setting<T>& o, const Head<T>& head, int64_t C, Projected<T>& p) {
  const int64_t P = padded(C), e = o.e;
  T since = 0;
  for (int64_t t = 0; t < C; ++t) {
    p.log_alpha[t] = head.retention_bias;
    if (o.gated)
      p.log_alpha[t] = log_sigmoid(p.log_alpha[t] + dot(e, p.retention_in + t * e, head.retention_weight));
    p.alpha[t] = std::exp(p.log_alpha[t]);
    p.sigma_rate[t] = T(1) / (T(1) + std::exp(-head.rate_bias - dot(e, p.rate_in + t * e, head.rate_weight)));
    p.eta[t] = o.rate_max * p.sigma_rate[t] * (o.bound ? (T(1) + p.alpha[t]) / T(2) : T(1));
    p.before[t] = std::exp(since);
    since += p.log_alpha[t];
    p.gamma[t] = std::exp(since);
  }
  // Every pair adds up its own tokens: differences of sums from the start would lose the small ones.
  std::vector<T> sum(P, T(0));
  for (int64_t t = 0; t < C; ++t) {
    T *ratio = p.ratio + t * P, *pairs = p.pairs + t * P;
    const T step = p.log_alpha[t];
#pragma omp simd
    for (int64_t s = 0; s < t; ++s) {
      sum[s] += step;
      const T r = exponential(sum[s]);
      ratio[s] = r;
      pairs[s] = r * p.eta[s];
    }
    ratio[t] = T(1);
    pairs[t] = p.eta[t];
    std::fill(ratio + t + 1, ratio + P, T(0));
    std::fill(pairs + t + 1, pairs + P, T(0));
  }
}

//! `eta_s gamma_C / gamma_s` times every row.
template <typename T>
void scale_end(int64_t C, int64_t n, const T* pairs, const T* x, T* y) {
  const T* end = pairs + (C - 1) * padded(C);
  for (int64_t s = 0; s < C; ++s)
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) y[s * n + i] = end[s] * x[s * n + i];
}

//! Inner products of keys and the inverse of `I + L`, `L[t, s] = pairs[t - 1, s] <k_s, k_t>`.
template <typename T>
void system(Arena<T>& arena, int64_t C, int64_t n, const T* keys, const T* pairs, T* gram, T* inverse) {
  const int64_t P = padded(C);
  const auto mark = arena.mark();
  T *columns = arena.take(n * P), *lower = arena.take(P * P);
  transpose(C, n, keys, columns, P);
  pair_products(C, n, keys, columns, gram);
  std::fill(lower, lower + P, T(0));
  for (int64_t t = 1; t < C; ++t)
#pragma omp simd
    for (int64_t s = 0; s < P; ++s) lower[t * P + s] = pairs[(t - 1) * P + s] * gram[t * P + s];
  std::fill(lower + C * P, lower + P * P, T(0));
  unit_inverse(P, lower, inverse);
  arena.release(mark);
}

template <typename T>
Projected<T> take_projected(Arena<T>& arena, const Setting<T>& o, int64_t C) {
  const int64_t P = padded(C), E = C * o.e;
  Projected<T> p{};
  for (T** tile : {&p.k, &p.v, &p.q, &p.end_key}) *tile = arena.take(E);
  for (T** row : {&p.k_scale, &p.q_scale, &p.sigma_rate, &p.eta, &p.log_alpha, &p.alpha, &p.gamma, &p.before})
    *row = arena.take(C);
  for (T** tile : {&p.ratio, &p.pairs, &p.gram}) *tile = arena.take(C * P);
  p.inverse = arena.take(P * P);
  for (int64_t m = 0; m + 1 < o.M; ++m) {
    p.at_x[m] = take_read(arena, C, o.h);
    p.at_v[m] = take_read(arena, C, o.h);
    p.target[m] = arena.take(E);
    p.target_scale[m] = arena.take(C);
  }
  p.rate_in = arena.take(E);
  p.retention_in = arena.take(E);
  return p;
}

//! Keys, values, queries, gates and own targets from the memories at the snapshot (Eq. 83, 84).
template <typename T>
void project(Arena<T>& arena, const Setting<T>& o, const Head<T>& head, int64_t C, const T* xk, const T* xv,
             const T* xq, const Pair<T>& memory, Projected<T>& p) {
  const int64_t e = o.e, E = C * e;
  const auto mark = arena.mark();
  T* raw = arena.take(E);
  auto read = [&](int64_t m, const T* z, T* out) {
    if (m < 0)
      std::copy(z, z + E, out);
    else
      read_memory(o, C, z, memory, m, p.at_x[m], out);
  };
  read(o.value, xv, p.v);
  read(o.rate, xk, p.rate_in);
  read(o.retention, xk, p.retention_in);
  read(o.key, xk, raw);
  unit(C, e, raw, p.k, p.k_scale);
  unit(C, e, xq, p.q, p.q_scale);
  for (int64_t m = 0; m + 1 < o.M; ++m) {
    read_memory(o, C, p.v, memory, m, p.at_v[m], raw);
    unit(C, e, raw, p.target[m], p.target_scale[m]);
  }
  gates(o, head, C, p);
  scale_end(C, e, p.pairs, p.k, p.end_key);
  system(arena, C, e, p.k, p.pairs, p.gram, p.inverse);
  arena.release(mark);
}

template <typename T>
Written<T> take_written(Arena<T>& arena, const Setting<T>& o, int64_t C) {
  const int64_t P = padded(C);
  Written<T> w{};
  w.at_k = take_read(arena, C, o.h);
  for (T** tile : {&w.back, &w.hidden, &w.known_in, &w.erased_in, &w.end_phi}) *tile = arena.take(C * o.h);
  for (T** tile : {&w.surprise, &w.known_out, &w.erased_out}) *tile = arena.take(C * o.e);
  w.gram = arena.take(C * P);
  w.inverse = arena.take(P * P);
  return w;
}

//! `u = (I + L)^{-1} (step - gamma_{t-1} known)`.
template <typename T>
void solve(Arena<T>& arena, int64_t C, int64_t n, const T* inverse, const T* before, const T* step,
           const T* known, T* erased) {
  const auto mark = arena.mark();
  T* right = arena.take(C * n);
  for (int64_t t = 0; t < C; ++t) {
    const T c = before[t];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) right[t * n + i] = step[t * n + i] - c * known[t * n + i];
  }
  causal(C, n, inverse, right, erased, false);
  arena.release(mark);
}

//! Gradients at the snapshot and the two systems of one memory (Eq. 85, 88); `outer` is its W1, [e, h].
template <typename T>
void write(Arena<T>& arena, const Setting<T>& o, const Head<T>& head, int64_t C, int64_t m,
           const Projected<T>& p, const Pair<T>& memory, const T* outer, const Pair<T>& change, Written<T>& w) {
  const int64_t e = o.e, h = o.h, S = e * h;
  const T* target = m + 1 < o.M ? p.target[m] : p.v;
  for (int64_t i = 0; i < C * e; ++i) w.surprise[i] = head.scale[m] * target[i];
  if (o.matrix) {
    nn(C, e, e, p.k, e, change.inner + m * S, w.known_in, false);
    return solve(arena, C, e, p.inverse, p.before, w.surprise, w.known_in, w.erased_in);
  }
  read_hidden(o, C, p.k, memory.inner + m * S, w.at_k);
  nn(C, h, e, w.surprise, e, outer, w.back, false);
  features_backward(C, h, w.at_k.linear, w.at_k.sigma, w.at_k.phi, w.at_k.scale, w.back, w.hidden);
  nn(C, h, e, p.k, e, change.inner + m * S, w.known_in, false);
  nn(C, e, h, w.at_k.phi, h, change.outer + m * S, w.known_out, false);
  solve(arena, C, h, p.inverse, p.before, w.hidden, w.known_in, w.erased_in);
  system(arena, C, h, w.at_k.phi, p.pairs, w.gram, w.inverse);
  solve(arena, C, e, w.inverse, p.before, w.surprise, w.known_out, w.erased_out);
  scale_end(C, h, p.pairs, w.at_k.phi, w.end_phi);
}

//! One weight after the chunk: `gamma_C W + end^T u`, [i, o]. `to` may be the weight itself.
template <typename T>
void carry(int64_t C, int64_t i, int64_t o, T gamma, const T* weight, const T* end, const T* erased, T* to) {
  for (int64_t x = 0; x < i * o; ++x) to[x] = gamma * weight[x];
  tn(i, o, C, end, i, erased, to, true);
}

template <typename T>
Reading<T> take_reading(Arena<T>& arena, const Setting<T>& o, int64_t C) {
  const int64_t P = padded(C);
  Reading<T> r{};
  for (T** tile : {&r.held_in, &r.linear, &r.sigma, &r.mid}) *tile = arena.take(C * o.h);
  r.held_out = arena.take(C * o.e);
  r.mid_scale = arena.take(C);
  for (T** tile : {&r.q_k, &r.q_pairs, &r.mid_phi, &r.mid_pairs}) *tile = arena.take(C * P);
  return r;
}

//! One layer of the read: `gamma_t (x W) + sum_s pairs[t, s] <x_t, key_s> u_s (+ x base)`.
template <typename T>
void read_running(Arena<T>& arena, int64_t C, int64_t i, int64_t o, const T* x, const T* weight, const T* base,
                  const T* keys, const T* erased, const Projected<T>& p, T* held, T* products, T* weighted,
                  T* out) {
  const int64_t P = padded(C);
  const auto mark = arena.mark();
  T* columns = arena.take(i * P);
  transpose(C, i, keys, columns, P);
  pair_products(C, i, x, columns, products);
#pragma omp simd
  for (int64_t n = 0; n < C * P; ++n) weighted[n] = products[n] * p.pairs[n];
  arena.release(mark);
  nn(C, o, i, x, i, weight, held, false);
  for (int64_t t = 0; t < C; ++t)
#pragma omp simd
    for (int64_t n = 0; n < o; ++n) out[t * o + n] = p.gamma[t] * held[t * o + n];
  causal(C, o, weighted, erased, out, true);
  if (base != nullptr) nn(C, o, i, x, i, base, out, true);
}

//! The main memory at the running state (Eq. 86), [C, e].
template <typename T>
void read_main(Arena<T>& arena, const Setting<T>& o, int64_t C, const Projected<T>& p, const Written<T>& w,
               const Pair<T>& change, const Pair<T>& base, Reading<T>& r, T* y) {
  const int64_t e = o.e, h = o.h, S = e * h, main = (o.M - 1) * S;
  const bool rest = base.inner != nullptr;
  T* linear = o.matrix ? y : r.linear;
  read_running(arena, C, e, h, p.q, change.inner + main, rest ? base.inner + main : nullptr, p.k, w.erased_in, p,
               r.held_in, r.q_k, r.q_pairs, linear);
  if (o.matrix) return;
  features(C, h, r.linear, r.sigma, r.mid, r.mid_scale);
  read_running(arena, C, h, e, r.mid, change.outer + main, rest ? base.outer + main : nullptr, w.at_k.phi,
               w.erased_out, p, r.held_out, r.mid_phi, r.mid_pairs, y);
}

}  // namespace nest
