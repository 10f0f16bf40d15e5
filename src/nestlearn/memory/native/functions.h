// Maps of rows and elements: unit length, the features of MLP memories, and their derivatives.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace nest {

constexpr double kUnitEps = 1e-6;

template <typename T>
inline T dot(int64_t n, const T* a, const T* b) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

//! y += c x
template <typename T>
inline void axpy(int64_t n, T c, const T* __restrict x, T* __restrict y) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] += c * x[i];
}

//! exp(x), vectorised by the compiler; the polynomial is Cephes' for single precision.
inline float exponential(float x) {
  const float in = x < -87.0f ? -87.0f : (x > 88.0f ? 88.0f : x);
  const float n = std::rint(in * 1.44269504088896341f);
  const float r = (in - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float y = p * (r * r) + r + 1.0f;
  const int32_t bits = (static_cast<int32_t>(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : y * power;
}
inline double exponential(double x) { return std::exp(x); }

//! a = x / sqrt(eps + |x|^2) for every row; `scale` is the inverse root.
template <typename T>
void unit(int64_t rows, int64_t n, const T* x, T* y, T* scale) {
  for (int64_t t = 0; t < rows; ++t) scale[t] = dot(n, x + t * n, x + t * n);
#pragma omp simd
  for (int64_t t = 0; t < rows; ++t) scale[t] = T(1) / std::sqrt(scale[t] + T(kUnitEps));
  for (int64_t t = 0; t < rows; ++t) {
    const T *a = x + t * n, c = scale[t];
    T* b = y + t * n;
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) b[i] = a[i] * c;
  }
}

//! Gradient by x of `y = unit(x)`; `to` may be `d`.
template <typename T>
void unit_backward(int64_t rows, int64_t n, const T* y, const T* scale, const T* d, T* to) {
  for (int64_t t = 0; t < rows; ++t) {
    const T *a = y + t * n, *b = d + t * n;
    T* c = to + t * n;
    const T along = dot(n, a, b), s = scale[t];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) c[i] = (b[i] - a[i] * along) * s;
  }
}

//! 1 / x for x in [1, 1e38]: three Newton steps from the exponent's mirror image; a division is five times slower.
inline float reciprocal(float x) {
  int32_t bits;
  std::memcpy(&bits, &x, 4);
  bits = 0x7EF311C3 - bits;
  float y;
  std::memcpy(&y, &bits, 4);
  y *= 2.0f - x * y;
  y *= 2.0f - x * y;
  return y + y * (1.0f - x * y);
}

//! Zero where the exponential would leave the reciprocal's range; NaN stays NaN.
inline float sigmoid(float x) { return x < -87.0f ? 0.0f : reciprocal(1.0f + exponential(-x)); }
inline double sigmoid(double x) { return 1.0 / (1.0 + std::exp(-x)); }

//! phi = s / sqrt(1 + |s|^2) of `s = silu(a)` for every row; `scale` is the inverse root, `sigma` sigmoid(a).
template <typename T>
void features(int64_t rows, int64_t h, const T* __restrict a, T* __restrict sigma, T* __restrict phi,
              T* __restrict scale) {
  // All elements first: a row alone is too short to hide how long the exponential takes.
#pragma omp simd
  for (int64_t i = 0; i < rows * h; ++i) {
    const T p = sigmoid(a[i]);
    sigma[i] = p;
    phi[i] = a[i] * p;
  }
  for (int64_t t = 0; t < rows; ++t) scale[t] = dot(h, phi + t * h, phi + t * h);
#pragma omp simd
  for (int64_t t = 0; t < rows; ++t) scale[t] = T(1) / std::sqrt(T(1) + scale[t]);
  for (int64_t t = 0; t < rows; ++t) {
    T* y = phi + t * h;
    const T c = scale[t];
#pragma omp simd
    for (int64_t i = 0; i < h; ++i) y[i] *= c;
  }
}

//! Derivative of `a sigmoid(a)`.
template <typename T>
inline T silu_slope(T a, T sigma) {
  return sigma + a * sigma * (T(1) - sigma);
}

//! Gradient by `a` from the gradient `d` by the features.
template <typename T>
void features_backward(int64_t rows, int64_t h, const T* __restrict a, const T* __restrict sigma,
                       const T* __restrict phi, const T* __restrict scale, const T* __restrict d,
                       T* __restrict out) {
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t at = t * h;
    const T along = dot(h, phi + at, d + at), c = scale[t];
#pragma omp simd
    for (int64_t i = at; i < at + h; ++i) out[i] = (d[i] - phi[i] * along) * c * silu_slope(a[i], sigma[i]);
  }
}

}  // namespace nest
