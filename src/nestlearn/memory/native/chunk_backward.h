// One chunk backward: gradients by everything that chunk.h reads, from its tiles, which are computed again.
#pragma once

#include "chunk.h"

namespace nest {

//! Gradients by what the projections gave, and by the products of gates.
template <typename T>
struct ProjectedGradient {
  T *k, *v, *q;                          // [C, e]
  T *eta, *log_alpha, *alpha, *gamma, *before, *pairs;
  T *end_key, *lower;                    // by gamma-weighted keys [C, e]; by the keys' system [C, P]
};

//! Gradients by the parameters of one sample and head; added to.
template <typename T>
struct HeadGradient {
  T *rate_weight, *retention_weight, *rate_bias, *retention_bias, *scale;
};

//! What the backward pass of one chunk reads and gives for the weights, [inputs, outputs] each.
template <typename T>
struct WeightGradient {
  Pair<T> memory;                        // by the snapshot's memories; added to
  Pair<T> after;                         // by the change after the chunk; becomes that before it
  Pair<T> base;                          // by the initial states, through reads; main memory only; added to
};

template <typename T>
ProjectedGradient<T> take_gradient(Arena<T>& arena, const Setting<T>& o, int64_t C) {
  const int64_t P = padded(C);
  ProjectedGradient<T> g{};
  auto zeros = [&](int64_t n) {
    T* x = arena.take(n);
    std::fill(x, x + n, T(0));
    return x;
  };
  for (T** tile : {&g.k, &g.v, &g.q, &g.end_key}) *tile = zeros(C * o.e);
  for (T** row : {&g.eta, &g.log_alpha, &g.alpha, &g.gamma, &g.before}) *row = zeros(C);
  g.pairs = zeros(C * P);
  g.lower = zeros(C * P);
  return g;
}

//! Backward of `z + f(z)`: adds to the gradients by z and by the memory.
template <typename T>
void read_memory_backward(Arena<T>& arena, const Setting<T>& o, int64_t C, const T* z, const Pair<T>& transposed,
                          int64_t m, const Read<T>& r, const T* d, Pair<T>& by_memory, T* dz) {
  const int64_t e = o.e, h = o.h, S = e * h;
  for (int64_t i = 0; i < C * e; ++i) dz[i] += d[i];
  if (o.matrix) {
    tn(e, e, C, z, e, d, by_memory.inner + m * S, true);
    return nn(C, e, e, d, e, transposed.inner + m * S, dz, true);
  }
  const auto mark = arena.mark();
  T *by_phi = arena.take(C * h), *by_linear = arena.take(C * h);
  nn(C, h, e, d, e, transposed.outer + m * S, by_phi, false);
  tn(h, e, C, r.phi, h, d, by_memory.outer + m * S, true);
  features_backward(C, h, r.linear, r.sigma, r.phi, r.scale, by_phi, by_linear);
  tn(e, h, C, z, e, by_linear, by_memory.inner + m * S, true);
  nn(C, e, h, by_linear, h, transposed.inner + m * S, dz, true);
  arena.release(mark);
}

//! Backward of one weight's write. In: gradients by u (from reads) and by the weight after. Out: those by the
//! step, the keys, the gates, the system (added to `lower`) and the end's keys (added to), and by the weight
//! before, in place of that after.
template <typename T>
void solve_backward(Arena<T>& arena, int64_t C, int64_t i, int64_t o, const Projected<T>& p, const T* keys,
                    const T* end_keys, const T* inverse, const T* known, const T* erased, const T* weight,
                    T* by_erased, T* after, T* by_step, T* by_keys, T* by_end, T* lower,
                    ProjectedGradient<T>& g) {
  const int64_t P = padded(C), Ld = P;
  const auto mark = arena.mark();
  T *turned = arena.take(std::max(i * o, std::max(i, o) * P)), *by_known = arena.take(C * o);
  nn(C, o, i, end_keys, i, after, by_erased, true);
  transpose(i, o, after, turned, i);
  nn(C, i, o, erased, o, turned, by_end, true);
  g.gamma[C - 1] += dot(i * o, weight, after);
  anticausal(C, o, inverse, by_erased, by_step, false);
  transpose(C, o, erased, turned, Ld);
  T* outer = arena.take(C * P);
  pair_products(C, o, by_step, turned, outer);
  for (int64_t t = 0; t < C; ++t) {
    for (int64_t s = 0; s < t; ++s) lower[t * P + s] -= outer[t * P + s];
    const T c = p.before[t];
    T along = 0;
#pragma omp simd reduction(+ : along)
    for (int64_t n = 0; n < o; ++n) {
      along += by_step[t * o + n] * known[t * o + n];
      by_known[t * o + n] = -c * by_step[t * o + n];
    }
    g.before[t] -= along;
  }
  transpose(i, o, weight, turned, i);
  nn(C, i, o, by_known, o, turned, by_keys, true);
  const T carried = p.gamma[C - 1];
  for (int64_t x = 0; x < i * o; ++x) after[x] *= carried;
  tn(i, o, C, keys, i, by_known, after, true);
  arena.release(mark);
}

//! What all weights with the same keys share: the end's keys and the system of their inner products.
template <typename T>
void system_backward(Arena<T>& arena, int64_t C, int64_t n, const Projected<T>& p, const T* keys, const T* gram,
                     const T* by_end, const T* lower, T* by_keys, ProjectedGradient<T>& g) {
  const int64_t P = padded(C);
  const auto mark = arena.mark();
  T* by_gram = arena.take(C * P);
  const T* end = p.pairs + (C - 1) * P;
  for (int64_t s = 0; s < C; ++s) {
    g.pairs[(C - 1) * P + s] += dot(n, by_end + s * n, keys + s * n);
    axpy(n, end[s], by_end + s * n, by_keys + s * n);
  }
  std::fill(by_gram, by_gram + P, T(0));
  for (int64_t t = 1; t < C; ++t) {
    const T *pairs = p.pairs + (t - 1) * P, *by = lower + t * P, *products = gram + t * P;
    T *to = g.pairs + (t - 1) * P, *out = by_gram + t * P;
#pragma omp simd
    for (int64_t s = 0; s < P; ++s) {
      to[s] += by[s] * products[s];
      out[s] = by[s] * pairs[s];
    }
  }
  causal(C, n, by_gram, keys, by_keys, true);
  anticausal(C, n, by_gram, keys, by_keys, true);
  arena.release(mark);
}

//! Backward of `hidden = features_backward(linear, back)` and of the features, by `linear` and `back`.
template <typename T>
void hidden_backward(int64_t C, int64_t h, const Written<T>& w, const T* by_hidden, const T* by_phi, T* by_back,
                     T* by_linear) {
  std::vector<T> slopes(3 * h);
  T *slope = slopes.data(), *curve = slope + h, *of_phi = curve + h;
  for (int64_t t = 0; t < C; ++t) {
    const T *a = w.at_k.linear + t * h, *sigma = w.at_k.sigma + t * h, *phi = w.at_k.phi + t * h, *b = w.back + t * h, *d = by_hidden + t * h;
    const T *others = by_phi + t * h, scale = w.at_k.scale[t], along = dot(h, phi, b);
    T *to_back = by_back + t * h, *to = by_linear + t * h, by_scale = 0, turned = 0;
#pragma omp simd reduction(+ : by_scale, turned)
    for (int64_t i = 0; i < h; ++i) {
      const T s = sigma[i], first = silu_slope(a[i], s), inner = b[i] - phi[i] * along;
      slope[i] = first;
      curve[i] = inner * scale * d[i] * (s + first - T(2) * s * first);
      by_scale += d[i] * first * inner;
      turned += phi[i] * d[i] * first * scale;
    }
    T whole = 0;
#pragma omp simd reduction(+ : whole)
    for (int64_t i = 0; i < h; ++i) {
      const T through = d[i] * slope[i] * scale;
      to_back[i] = through - phi[i] * turned;
      of_phi[i] = others[i] - through * along - b[i] * turned;
      whole += phi[i] * of_phi[i];
    }
    whole += by_scale * scale;
#pragma omp simd
    for (int64_t i = 0; i < h; ++i) to[i] = (of_phi[i] - phi[i] * whole) * scale * slope[i] + curve[i];
  }
}

//! Backward of `read_running`: adds to the gradients by the pairs, keys, u and base; writes those by x.
template <typename T>
void read_running_backward(Arena<T>& arena, int64_t C, int64_t i, int64_t o, const Projected<T>& p, const T* x,
                           const T* weight, const T* base, const T* keys, const T* erased, const T* held,
                           const T* products, const T* weighted, const T* d, T* dx, T* by_keys, T* by_erased,
                           T* by_weight, T* by_base, ProjectedGradient<T>& g) {
  const int64_t P = padded(C);
  const auto mark = arena.mark();
  T *turned = arena.take(std::max(i * o, o * P)), *scaled = arena.take(C * o), *by = arena.take(C * P);
  for (int64_t t = 0; t < C; ++t) {
    g.gamma[t] += dot(o, d + t * o, held + t * o);
    for (int64_t n = 0; n < o; ++n) scaled[t * o + n] = p.gamma[t] * d[t * o + n];
  }
  transpose(i, o, weight, turned, i);
  nn(C, i, o, scaled, o, turned, dx, false);
  tn(i, o, C, x, i, scaled, by_weight, false);
  if (base != nullptr) {
    transpose(i, o, base, turned, i);
    nn(C, i, o, d, o, turned, dx, true);
    tn(i, o, C, x, i, d, by_base, true);
  }
  anticausal(C, o, weighted, d, by_erased, true);
  transpose(C, o, erased, turned, P);
  pair_products(C, o, d, turned, by);
#pragma omp simd
  for (int64_t n = 0; n < C * P; ++n) {
    g.pairs[n] += by[n] * products[n];
    by[n] *= p.pairs[n];
  }
  causal(C, i, by, keys, dx, true);
  anticausal(C, i, by, x, by_keys, true);
  arena.release(mark);
}

//! Backward of the gates' products, by the logits, and on to the memories' reads and the read-outs.
template <typename T>
void gates_backward(const Setting<T>& o, const Head<T>& head, int64_t C, const Projected<T>& p,
                    ProjectedGradient<T>& g, HeadGradient<T>& by, T* by_rate_in, T* by_retention_in) {
  const int64_t P = padded(C), e = o.e;
  std::vector<T> later(P, T(0));
  std::fill(by_retention_in, by_retention_in + C * e, T(0));
  for (int64_t t = 0; t + 1 < C; ++t) g.gamma[t] += g.before[t + 1];
  T through = 0;
  for (int64_t t = C - 1; t >= 0; --t) {
    const T *d = g.pairs + t * P, *ratio = p.ratio + t * P, *pairs = p.pairs + t * P;
    for (int64_t s = 0; s <= t; ++s) {
      g.eta[s] += d[s] * ratio[s];
      later[s] += d[s] * pairs[s];
    }
    through += g.gamma[t] * p.gamma[t];
    for (int64_t s = 0; s < t; ++s) g.log_alpha[t] += later[s];
    g.log_alpha[t] += through;
  }
  for (int64_t t = 0; t < C; ++t) {
    const T by_rate = g.eta[t] * p.eta[t] * (T(1) - p.sigma_rate[t]);
    const T by_alpha = o.bound ? g.eta[t] * o.rate_max * p.sigma_rate[t] / T(2) : T(0);
    *by.rate_bias += by_rate;
    axpy(e, by_rate, p.rate_in + t * e, by.rate_weight);
    for (int64_t i = 0; i < e; ++i) by_rate_in[t * e + i] = by_rate * head.rate_weight[i];
    if (!o.gated) continue;
    const T by_retention = (g.log_alpha[t] + by_alpha * p.alpha[t]) * -std::expm1(p.log_alpha[t]);
    *by.retention_bias += by_retention;
    axpy(e, by_retention, p.retention_in + t * e, by.retention_weight);
    for (int64_t i = 0; i < e; ++i) by_retention_in[t * e + i] = by_retention * head.retention_weight[i];
  }
}

//! Backward of both writes of an MLP memory: writes the gradient by the surprise, adds to the others.
template <typename T>
void mlp_write_backward(Arena<T>& arena, const Setting<T>& o, int64_t C, int64_t m, const Projected<T>& p,
                        const Written<T>& w, const Pair<T>& memory, const Pair<T>& turned, const Pair<T>& change,
                        T* by_phi, T* by_erased_in, T* by_erased_out, T* by_surprise, ProjectedGradient<T>& g,
                        WeightGradient<T>& weights) {
  const int64_t e = o.e, h = o.h, S = e * h, P = padded(C);
  const auto mark = arena.mark();
  T *by_hidden = arena.take(C * h), *by_back = arena.take(C * h), *by_linear = arena.take(C * h),
    *by_end = arena.take(C * h), *lower = arena.take(C * P);
  std::fill(by_end, by_end + C * h, T(0));
  std::fill(lower, lower + C * P, T(0));
  solve_backward(arena, C, h, e, p, w.at_k.phi, w.end_phi, w.inverse, w.known_out, w.erased_out,
                 change.outer + m * S, by_erased_out, weights.after.outer + m * S, by_surprise, by_phi, by_end,
                 lower, g);
  system_backward(arena, C, h, p, w.at_k.phi, w.gram, by_end, lower, by_phi, g);
  solve_backward(arena, C, e, h, p, p.k, p.end_key, p.inverse, w.known_in, w.erased_in, change.inner + m * S,
                 by_erased_in, weights.after.inner + m * S, by_hidden, g.k, g.end_key, g.lower, g);
  hidden_backward(C, h, w, by_hidden, by_phi, by_back, by_linear);
  tn(e, h, C, p.k, e, by_linear, weights.memory.inner + m * S, true);
  nn(C, e, h, by_linear, h, turned.inner + m * S, g.k, true);
  nn(C, e, h, by_back, h, memory.outer + m * S, by_surprise, true);
  tn(h, e, C, by_back, h, w.surprise, weights.memory.outer + m * S, true);
  arena.release(mark);
}

//! Backward of one memory's write and of its own target; `by` holds gradients from the main memory's read.
template <typename T>
void write_backward(Arena<T>& arena, const Setting<T>& o, const Head<T>& head, int64_t C, int64_t m,
                    const Projected<T>& p, const Written<T>& w, const Pair<T>& memory, const Pair<T>& turned,
                    const Pair<T>& change, T* by_phi, T* by_erased_in, T* by_erased_out,
                    ProjectedGradient<T>& g, WeightGradient<T>& weights, HeadGradient<T>& by) {
  const int64_t e = o.e, S = e * o.h;
  const auto mark = arena.mark();
  T* by_surprise = arena.take(C * e);
  if (o.matrix) {
    solve_backward(arena, C, e, e, p, p.k, p.end_key, p.inverse, w.known_in, w.erased_in, change.inner + m * S,
                   by_erased_in, weights.after.inner + m * S, by_surprise, g.k, g.end_key, g.lower, g);
  } else {
    mlp_write_backward(arena, o, C, m, p, w, memory, turned, change, by_phi, by_erased_in, by_erased_out, by_surprise,
                       g, weights);
  }
  const bool own = m + 1 < o.M;
  const T* target = own ? p.target[m] : p.v;
  by.scale[m] += dot(C * e, by_surprise, target);
  for (int64_t i = 0; i < C * e; ++i) by_surprise[i] *= head.scale[m];
  if (own) {
    unit_backward(C, e, target, p.target_scale[m], by_surprise, by_surprise);
    read_memory_backward(arena, o, C, p.v, turned, m, p.at_v[m], by_surprise, weights.memory, g.v);
  } else {
    for (int64_t i = 0; i < C * e; ++i) g.v[i] += by_surprise[i];
  }
  arena.release(mark);
}

//! Backward of the projections: gradients by the streams.
template <typename T>
void project_backward(Arena<T>& arena, const Setting<T>& o, const Head<T>& head, int64_t C, const T* xk,
                      const T* xv, const Projected<T>& p, const Pair<T>& turned, ProjectedGradient<T>& g,
                      WeightGradient<T>& weights, HeadGradient<T>& by, T* dk, T* dv, T* dq) {
  const int64_t e = o.e, E = C * e;
  const auto mark = arena.mark();
  T *by_rate = arena.take(E), *by_retention = arena.take(E), *by_key = arena.take(E);
  system_backward(arena, C, e, p, p.k, p.gram, g.end_key, g.lower, g.k, g);
  gates_backward(o, head, C, p, g, by, by_rate, by_retention);
  unit_backward(C, e, p.k, p.k_scale, g.k, by_key);
  unit_backward(C, e, p.q, p.q_scale, g.q, dq);
  std::fill(dk, dk + E, T(0));
  std::fill(dv, dv + E, T(0));
  auto read = [&](int64_t m, const T* z, const T* d, T* dz) {
    if (m < 0)
      for (int64_t i = 0; i < E; ++i) dz[i] += d[i];
    else
      read_memory_backward(arena, o, C, z, turned, m, p.at_x[m], d, weights.memory, dz);
  };
  read(o.key, xk, by_key, dk);
  read(o.rate, xk, by_rate, dk);
  read(o.retention, xk, by_retention, dk);
  read(o.value, xv, g.v, dv);
  arena.release(mark);
}

}  // namespace nest
