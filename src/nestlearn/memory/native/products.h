// Products, transposition and triangular inverses of small dense tiles.
//
// All tiles are row-major. Rows are tokens or a weight's inputs; row lengths are multiples of the vector
// length, and tiles of pairs of tokens are padded with zeros to one.
#pragma once

#include <cmath>
#include <type_traits>

#include "arena.h"

namespace nest {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
constexpr int kRows = 6;
#elif defined(__AVX__)
constexpr int kBytes = 32;
constexpr int kRows = 3;
#else
constexpr int kBytes = 16;
constexpr int kRows = 3;
#endif
//! Vectors side by side in one block of a product.
constexpr int kWide = 4;

template <typename T>
struct Vec {
  typedef T type __attribute__((vector_size(kBytes), aligned(alignof(T)), may_alias));
  static constexpr int length = kBytes / sizeof(T);
};

//! Influences below this are dropped, as in the Python form.
constexpr double kNegligible = 1e-18;

template <typename T, int R, int W>
inline void block(int64_t k, const T* A, int64_t ai, int64_t ak, const T* B, int64_t ldb, T* C, int64_t ldc,
                  bool add) {
  using V = typename Vec<T>::type;
  constexpr int L = Vec<T>::length;
  V acc[R][W];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w) acc[r][w] = add ? *(const V*)(C + r * ldc + w * L) : V{};
  for (int64_t p = 0; p < k; ++p) {
    V b[W];
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w) b[w] = *(const V*)(B + p * ldb + w * L);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T a = A[r * ai + p * ak];
#pragma GCC unroll 8
      for (int w = 0; w < W; ++w) acc[r][w] += a * b[w];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int w = 0; w < W; ++w) *(V*)(C + r * ldc + w * L) = acc[r][w];
}

//! Which entries of A may be other than zero; the others are skipped.
enum class Shape { full, lower, upper };

template <typename T, int W, Shape kShape>
inline void columns(int64_t first, int64_t m, int64_t k, const T* A, int64_t ai, int64_t ak, const T* B, int64_t ldb,
                    T* C, int64_t ldc, bool add) {
  auto rows = [&](auto count, int64_t i) {
    constexpr int R = decltype(count)::value;
    const int64_t from = kShape == Shape::upper ? std::min(i, k) : 0;
    const int64_t to = kShape == Shape::lower ? std::min(i + R, k) : k;
    block<T, R, W>(to - from, A + i * ai + from * ak, ai, ak, B + from * ldb, ldb, C + i * ldc, ldc, add);
  };
  int64_t i = first;
  for (; i + kRows <= m; i += kRows) rows(std::integral_constant<int, kRows>(), i);
  for (; i + 4 <= m; i += 4) rows(std::integral_constant<int, 4>(), i);
  for (; i + 2 <= m; i += 2) rows(std::integral_constant<int, 2>(), i);
  for (; i < m; ++i) rows(std::integral_constant<int, 1>(), i);
}

//! C[m, n] = (add ? C : 0) + A B. A is read at `A[i * ai + p * ak]`, so that it may be a transpose.
template <typename T, Shape kShape = Shape::full>
void product(int64_t m, int64_t n, int64_t k, const T* A, int64_t ai, int64_t ak, const T* B, int64_t ldb,
             T* C, int64_t ldc, bool add) {
  constexpr int L = Vec<T>::length;
  int64_t j = 0;
  for (; j + kWide * L <= n; j += kWide * L)
    columns<T, kWide, kShape>(0, m, k, A, ai, ak, B + j, ldb, C + j, ldc, add);
  for (; j + 2 * L <= n; j += 2 * L) columns<T, 2, kShape>(0, m, k, A, ai, ak, B + j, ldb, C + j, ldc, add);
  for (; j < n; j += L) columns<T, 1, kShape>(0, m, k, A, ai, ak, B + j, ldb, C + j, ldc, add);
}

//! C[m, n] (+)= A[m, k] B[k, n], contiguous rows.
template <typename T>
inline void nn(int64_t m, int64_t n, int64_t k, const T* A, int64_t lda, const T* B, T* C, bool add) {
  product<T>(m, n, k, A, lda, 1, B, n, C, n, add);
}

//! C[m, n] (+)= A[k, m]^T B[k, n].
template <typename T>
inline void tn(int64_t m, int64_t n, int64_t k, const T* A, int64_t lda, const T* B, T* C, bool add) {
  product<T>(m, n, k, A, 1, lda, B, n, C, n, add);
}

//! C[m, n] (+)= A B for pairs of tokens `A[m, P]`, whose entries above the diagonal are zero.
template <typename T>
inline void causal(int64_t m, int64_t n, const T* A, const T* B, T* C, bool add) {
  product<T, Shape::lower>(m, n, m, A, padded(m), 1, B, n, C, n, add);
}

//! C[m, n] (+)= A^T B for the same A.
template <typename T>
inline void anticausal(int64_t m, int64_t n, const T* A, const T* B, T* C, bool add) {
  product<T, Shape::upper>(m, n, m, A, 1, padded(m), B, n, C, n, add);
}

//! Pairs of tokens C[m, P] = A[m, k] B[k, P]; entries far above the diagonal are left as zeros.
template <typename T>
void pair_products(int64_t m, int64_t k, const T* A, const T* B, T* C) {
  constexpr int L = Vec<T>::length;
  const int64_t P = padded(m);
  int64_t j = 0;
  for (int64_t t = 0; t < m; ++t) std::fill(C + t * P, C + (t + 1) * P, T(0));
  for (; j + 2 * L <= P; j += 2 * L) columns<T, 2, Shape::full>(j, m, k, A, k, 1, B + j, P, C + j, P, false);
  for (; j < P; j += L) columns<T, 1, Shape::full>(j, m, k, A, k, 1, B + j, P, C + j, P, false);
}

//! to[c, r] = from[r, c]; columns of `to` from `rows` to `ld` are filled with zeros.
template <typename T>
void transpose(int64_t rows, int64_t cols, const T* from, int64_t lds, T* to, int64_t ld) {
  int64_t done = 0;
#if defined(__SSE__)
  if constexpr (sizeof(T) == 4) {
    const int64_t even = cols / 4 * 4;
    for (; done + 4 <= rows; done += 4) {
      for (int64_t c = 0; c < even; c += 4) {
        const float* f = from + done * lds + c;
        __m128 a = _mm_loadu_ps(f), b = _mm_loadu_ps(f + lds), d = _mm_loadu_ps(f + 2 * lds),
               e = _mm_loadu_ps(f + 3 * lds);
        _MM_TRANSPOSE4_PS(a, b, d, e);
        float* t = to + c * ld + done;
        _mm_storeu_ps(t, a);
        _mm_storeu_ps(t + ld, b);
        _mm_storeu_ps(t + 2 * ld, d);
        _mm_storeu_ps(t + 3 * ld, e);
      }
      for (int64_t c = even; c < cols; ++c)
        for (int64_t r = done; r < done + 4; ++r) to[c * ld + r] = from[r * lds + c];
    }
  }
#endif
  for (int64_t r = done; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * ld + r] = from[r * lds + c];
  for (int64_t c = 0; c < cols; ++c)
    for (int64_t z = rows; z < ld; ++z) to[c * ld + z] = T(0);
}

//! The same of contiguous rows.
template <typename T>
inline void transpose(int64_t rows, int64_t cols, const T* from, T* to, int64_t ld) {
  transpose(rows, cols, from, cols, to, ld);
}

//! Inverse of the unit lower triangle at the diagonal block that starts at `at`.
template <typename T>
void invert_block(int64_t at, int64_t ld, const T* L, T* X) {
  for (int64_t t = 0; t < kPad; ++t) {
    T row[kPad] = {};
    for (int64_t s = 0; s < t; ++s) {
      const T c = L[(at + t) * ld + at + s];
      const T* other = X + (at + s) * ld + at;
#pragma omp simd
      for (int64_t v = 0; v < kPad; ++v) row[v] -= c * other[v];
    }
    row[t] = T(1);
    std::copy(row, row + kPad, X + (at + t) * ld + at);
  }
}

//! X = (I + L)^{-1} for the strictly lower triangle of `L[n, n]`, n a multiple of the padding; the rest of X is
//! zero. Blocks on the diagonal first, then those below: X_ij = -X_ii sum_k L_ik X_kj.
template <typename T>
void unit_inverse(int64_t n, const T* L, T* X) {
  std::fill(X, X + n * n, T(0));
  T sum[kPad * kPad];
  for (int64_t i = 0; i < n; i += kPad) {
    invert_block(i, n, L, X);
    for (int64_t j = 0; j < i; j += kPad) {
      product<T>(kPad, kPad, i - j, L + i * n + j, n, 1, X + j * n + j, n, sum, kPad, false);
      for (T& x : sum) x = -x;
      product<T>(kPad, kPad, kPad, X + i * n + i, n, 1, sum, kPad, X + i * n + j, n, false);
    }
  }
  for (int64_t i = 0; i < n * n; ++i) X[i] = std::abs(X[i]) < T(kNegligible) ? T(0) : X[i];
}

}  // namespace nest
