// Scratch memory of a thread, and its treatment of denormal numbers.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#if defined(__SSE__)
#include <immintrin.h>
#endif

namespace nest {

//! Rows are padded to this many numbers, whatever the machine.
constexpr int kPad = 16;
inline int64_t padded(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

//! Denormal numbers count as zero while one of these lives; they would make products many times slower.
class FlushDenormals {
 public:
#if defined(__SSE__)
  FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#endif
};

//! A stack of aligned scratch tiles, one per thread. It grows to what one chunk needs and stays.
template <typename T>
class Arena {
 public:
  T* take(int64_t count) {
    const int64_t size = padded(count);
    while (block_ < blocks_.size() && used_ + size > room()) {
      ++block_;
      used_ = 0;
    }
    if (block_ == blocks_.size()) blocks_.emplace_back(std::max(kBlock, size) + kAlign);
    auto address = reinterpret_cast<uintptr_t>(blocks_[block_].data());
    T* start = reinterpret_cast<T*>((address + 63) / 64 * 64) + used_;
    used_ += size;
    return start;
  }
  //! Forget what an interrupted call has left.
  void reset() { release({0, 0}); }
  struct Mark {
    size_t block;
    int64_t used;
  };
  Mark mark() const { return {block_, used_}; }
  void release(Mark m) {
    block_ = m.block;
    used_ = m.used;
  }

 private:
  static constexpr int64_t kBlock = 1 << 20, kAlign = 64 / sizeof(T);
  int64_t room() const { return static_cast<int64_t>(blocks_[block_].size()) - kAlign; }
  std::vector<std::vector<T>> blocks_;
  size_t block_ = 0;
  int64_t used_ = 0;
};

}  // namespace nest
