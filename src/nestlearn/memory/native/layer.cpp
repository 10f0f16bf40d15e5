// All chunks of a self-modifying layer, forward and backward, for every sample and head.
//
// A sample and head is one task: its weights and tiles stay in a core's cache from chunk to chunk. Only the
// change at the start of every chunk, or of every few, is kept for the backward pass; the rest is computed again.

#include <ATen/Parallel.h>
#include <torch/library.h>

#include "call.h"

namespace nest {
namespace {

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
