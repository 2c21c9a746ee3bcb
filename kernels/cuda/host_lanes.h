// The lanes of lanes.cuh on a CPU, one after the other: so that the program of a warp is tested on
// machines without a GPU. Slow, and exact where a GPU approximates.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cuda/flt_numbers.h"

namespace mnemosyne::kernels::cuda {

struct HostLanes {
  static constexpr int kCount = 32;

  template <typename T>
  struct Of {
    std::array<T, kCount> lane{};

    Of() = default;
    Of(T x) { lane.fill(x); }  // NOLINT: a number stands for one in each lane.

    template <typename F>
    static Of Make(const F& f) {
      Of result;
      for (int i = 0; i < kCount; ++i)
        result.lane[static_cast<size_t>(i)] = f(static_cast<size_t>(i));
      return result;
    }
    T operator[](size_t i) const { return lane[i]; }

    friend Of operator+(const Of& a, const Of& b) {
      return Make([&](size_t i) { return static_cast<T>(a[i] + b[i]); });
    }
    friend Of operator-(const Of& a, const Of& b) {
      return Make([&](size_t i) { return static_cast<T>(a[i] - b[i]); });
    }
    friend Of operator*(const Of& a, const Of& b) {
      return Make([&](size_t i) { return static_cast<T>(a[i] * b[i]); });
    }
    friend Of operator&(const Of& a, const Of& b) {
      return Make([&](size_t i) { return static_cast<T>(a[i] & b[i]); });
    }
    friend Of operator^(const Of& a, const Of& b) {
      return Make([&](size_t i) { return static_cast<T>(a[i] ^ b[i]); });
    }
    friend Of operator>>(const Of& a, int count) {
      return Make([&](size_t i) { return static_cast<T>(a[i] >> count); });
    }
    friend Of<bool> operator<(const Of& a, const Of& b) {
      return Of<bool>::Make([&](size_t i) { return a[i] < b[i]; });
    }
    friend Of<bool> operator==(const Of& a, const Of& b) {
      return Of<bool>::Make([&](size_t i) { return a[i] == b[i]; });
    }
    friend Of<bool> operator&&(const Of& a, const Of& b) {
      return Of<bool>::Make([&](size_t i) { return a[i] && b[i]; });
    }
  };

  using Floats = Of<float>;
  using Doubles = Of<double>;
  using Ints = Of<int>;
  using Bools = Of<bool>;
  using Words = Of<uint32_t>;

  struct Here {
    int lane;
    template <typename T>
    T& operator()(Of<T>& x) const {
      return x.lane[static_cast<size_t>(lane)];
    }
    template <typename T>
    const T& operator()(const Of<T>& x) const {
      return x.lane[static_cast<size_t>(lane)];
    }
  };
  template <typename F>
  static void Each(const F& f) {
    for (int lane = 0; lane < kCount; ++lane) f(Here{lane});
  }

  // Fragments as the PTX manual has them for mma.m16n8k16: lane = 4 group + place. Sums are rounded
  // toward zero, as the units do.
  static void Mma(Floats (&c)[4], const Words (&a)[4], const Words (&b)[2]) {
    Multiply(c, a, b, [](uint16_t bits) {
      return static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(bits) << 16U));
    });
  }
  static void MmaBrain(Floats (&c)[4], const Words (&a)[4], const Words (&b)[2]) { Mma(c, a, b); }
  static void MmaHalf(Floats (&c)[4], const Words (&a)[4], const Words (&b)[2]) {
    Multiply(c, a, b, [](uint16_t bits) { return static_cast<double>(FromFloat16(bits)); });
  }

  // Digits that tf32 lacks are dropped.
  static void MmaSplit(Floats (&c)[4], const Floats (&a)[4], const Floats (&b)[2]) {
    const auto cut = [](float x) { return static_cast<double>(FloatOf(BitsOf(x) & 0xFFFFE000U)); };
    double left[16][8], right[8][8];  // Of b a column a row.
    for (size_t k = 0; k < 8; ++k) {
      for (size_t row = 0; row < 16; ++row) {
        left[row][k] = cut(a[row / 8 + 2 * (k / 4)][4 * (row % 8) + k % 4]);
      }
      for (size_t column = 0; column < 8; ++column) {
        right[column][k] = cut(b[k / 4][4 * column + k % 4]);
      }
    }
    Multiply(c, left, right);
  }

  static void LoadMatrices(Words (&x)[4], const uint32_t* from, const Ints& at) {
    for (size_t i = 0; i < 4; ++i) {
      x[i] = Words::Make(
          [&](size_t lane) { return from[static_cast<size_t>(at[8 * i + lane / 4]) + lane % 4]; });
    }
  }
  static void LoadTransposed(Words (&x)[4], const uint32_t* from, const Ints& at) {
    for (size_t i = 0; i < 4; ++i) {
      x[i] = Words::Make([&](size_t lane) {
        const auto half = [&](size_t row) {
          const uint32_t word = from[static_cast<size_t>(at[8 * i + row]) + lane / 4 / 2];
          return lane / 4 % 2 == 0 ? word & 0xFFFFU : word >> 16U;
        };
        return half(2 * (lane % 4)) | half(2 * (lane % 4) + 1) << 16U;
      });
    }
  }

  // Products of a group, as GroupLanes has them. Each warp forms its own.
  static void GroupBegin() {}
  static void GroupCommit() {}
  static void GroupWait(Floats (&)[8][4]) {}
  static void GroupShow() {}
  template <bool kHalf, bool kDown>
  static void GroupMultiply(Floats (&c)[8][4], const Words (&a)[4], const uint32_t* b, int step,
                            bool keep) {
    const auto first = static_cast<size_t>(16 * step);
    for (size_t tile = 0; tile < 8; ++tile) {
      Words right[2];
      for (size_t i = 0; i < 2; ++i) {
        right[i] = Words::Make([&](size_t lane) {
          const size_t column = 8 * tile + lane / 4, k = first + 8 * i + 2 * (lane % 4);
          if (!kDown) return b[GroupWord(column, k / 2)];
          const auto half = [&](size_t row) {
            return b[GroupWord(row, column / 2)] >> (16 * (column % 2)) & 0xFFFFU;
          };
          return half(k) | half(k + 1) << 16U;
        });
      }
      if (!keep) {
        for (Floats& sum : c[tile]) sum = Floats(0.0F);
      }
      if (kHalf) {
        MmaHalf(c[tile], a, right);
      } else {
        MmaBrain(c[tile], a, right);
      }
    }
  }
  template <bool kHalf>
  static void GroupMultiplyShared(Floats (&c)[8][4], const uint32_t* a, const uint32_t* b, int step,
                                  uint32_t warp, bool keep) {
    Words left[4];
    for (size_t i = 0; i < 4; ++i) {
      left[i] = Words::Make([&](size_t lane) {
        return a[GroupWord(16 * warp + lane / 4 + i % 2 * 8,
                           static_cast<size_t>(8 * step) + lane % 4 + i / 2 * 4)];
      });
    }
    GroupMultiply<kHalf, false>(c, left, b, step, keep);
  }

  static bool Any(const Bools& which) {
    return std::any_of(which.lane.begin(), which.lane.end(), [](bool x) { return x; });
  }

  static Ints Lane() {
    return Ints::Make([](size_t i) { return static_cast<int>(i); });
  }
  static void Sync() {}

  static Floats Fma(const Floats& a, const Floats& b, const Floats& c) {
    return Floats::Make([&](size_t i) { return std::fma(a[i], b[i], c[i]); });
  }
  static Doubles FmaDouble(const Doubles& a, const Doubles& b, const Doubles& c) {
    return Doubles::Make([&](size_t i) { return std::fma(a[i], b[i], c[i]); });
  }
  static Doubles DivideDouble(const Doubles& a, const Doubles& b) {
    return Doubles::Make([&](size_t i) { return a[i] / b[i]; });
  }
  static Doubles ToDouble(const Floats& x) {
    return Doubles::Make([&](size_t i) { return static_cast<double>(x[i]); });
  }
  static Floats ToFloat(const Doubles& x) {
    return Floats::Make([&](size_t i) { return static_cast<float>(x[i]); });
  }
  static Floats ToFloats(const Ints& x) {
    return Floats::Make([&](size_t i) { return static_cast<float>(x[i]); });
  }
  static Words ToWords(const Ints& x) {
    return Words::Make([&](size_t i) { return static_cast<uint32_t>(x[i]); });
  }
  static Ints ToInts(const Words& x) {
    return Ints::Make([&](size_t i) { return static_cast<int>(x[i]); });
  }
  static Words Bits(const Floats& x) {
    return Words::Make([&](size_t i) { return __builtin_bit_cast(uint32_t, x[i]); });
  }
  static Floats FromBits(const Words& x) {
    return Floats::Make([&](size_t i) { return __builtin_bit_cast(float, x[i]); });
  }
  static Floats Max(const Floats& a, const Floats& b) {
    return Floats::Make([&](size_t i) { return std::fmax(a[i], b[i]); });
  }
  static Floats Min(const Floats& a, const Floats& b) {
    return Floats::Make([&](size_t i) { return std::fmin(a[i], b[i]); });
  }
  static Floats Select(const Bools& which, const Floats& yes, const Floats& no) {
    return Floats::Make([&](size_t i) { return which[i] ? yes[i] : no[i]; });
  }
  static Floats Divide(const Floats& a, const Floats& b) {
    return Floats::Make([&](size_t i) { return a[i] / b[i]; });
  }
  static Floats Sqrt(const Floats& x) {
    return Floats::Make([&](size_t i) { return std::sqrt(x[i]); });
  }
  static Floats Root(const Floats& x) {
    return Floats::Make([&](size_t i) { return x[i] < 0x1p-126F ? 0.0F : std::sqrt(x[i]); });
  }
  static Floats Inverse(const Floats& x) {
    return Floats::Make([&](size_t i) { return 1.0F / x[i]; });
  }
  static Floats Exp(const Floats& x) {
    return Floats::Make([&](size_t i) { return std::exp(std::clamp(x[i], -87.0F, 88.0F)); });
  }
  static Floats Log(const Floats& x) {
    return Floats::Make([&](size_t i) { return std::log(x[i]); });
  }

  static Floats Shuffle(const Floats& x, const Ints& from) {
    return Floats::Make([&](size_t i) { return x[static_cast<size_t>(from[i] & 31)]; });
  }
  static Floats Exchange(const Floats& x, int mask) {
    return Floats::Make([&](size_t i) { return x[i ^ static_cast<size_t>(mask)]; });
  }
  static Doubles Exchange(const Doubles& x, int mask) {
    return Doubles::Make([&](size_t i) { return x[i ^ static_cast<size_t>(mask)]; });
  }

  static Floats Load(const float* p, const Ints& at) {
    return Floats::Make([&](size_t i) { return p[at[i]]; });
  }
  static Floats LoadIf(const Bools& which, const float* p, const Ints& at) {
    return Floats::Make([&](size_t i) { return which[i] ? p[at[i]] : 0.0F; });
  }
  static void StoreIf(const Bools& which, float* p, const Ints& at, const Floats& x) {
    for (size_t i = 0; i < kCount; ++i) {
      if (which[i]) p[at[i]] = x[i];
    }
  }
  static void StoreIf(const Bools& which, double* p, const Doubles& x) {
    for (size_t i = 0; i < kCount; ++i) {
      if (which[i]) *p = x[i];
    }
  }
  static void StoreIf(const Bools& which, uint32_t* p, const Bools& x) {
    for (size_t i = 0; i < kCount; ++i) {
      if (which[i]) *p = x[i] ? 1 : 0;
    }
  }
  static void LoadFour(const float* p, const Ints& at, Floats (&x)[4]) {
    for (int k = 0; k < 4; ++k) x[k] = Load(p + k, at);
  }
  static void StoreFour(float* p, const Ints& at, const Floats (&x)[4]) {
    for (int k = 0; k < 4; ++k) StoreIf(true, p + k, at, x[k]);
  }
  static Words LoadHalfIf(const Bools& which, const uint16_t* p, const Ints& at) {
    return Words::Make([&](size_t i) { return which[i] ? uint32_t{p[at[i]]} : 0U; });
  }
  static void StoreHalfIf(const Bools& which, uint16_t* p, const Ints& at, const Words& x) {
    for (size_t i = 0; i < kCount; ++i) {
      if (which[i]) p[at[i]] = static_cast<uint16_t>(x[i]);
    }
  }
  static void LoadHalves(const uint16_t* p, const Ints& at, Words (&x)[4]) {
    for (int k = 0; k < 4; ++k) x[k] = LoadHalfIf(true, p + k, at);
  }
  static void LoadSharedHalves(const uint16_t* p, const Ints& at, Words (&x)[4]) {
    LoadHalves(p, at, x);
  }
  static void CopyHalves(uint16_t* to, const uint16_t* from, const Ints& at) {
    Words x[4];
    LoadHalves(from, at, x);
    StoreHalves(to, at, x);
  }
  static void AwaitCopies() {}
  static void StoreHalves(uint16_t* p, const Ints& at, const Words (&x)[4]) {
    for (int k = 0; k < 4; ++k) StoreHalfIf(true, p + k, at, x[k]);
  }
  static void LoadStream(const float* p, const Ints& at, Floats (&x)[4]) { LoadFour(p, at, x); }
  static void StoreStream(float* p, const Ints& at, const Floats (&x)[4]) { StoreFour(p, at, x); }

 private:
  // Rows of 128 bytes, whose chunks of 16 bytes have changed places by the row.
  static size_t GroupWord(size_t row, size_t word) { return 32 * row + (word ^ (row % 8 * 4)); }

  template <typename Decode>
  static void Multiply(Floats (&c)[4], const Words (&a)[4], const Words (&b)[2],
                       const Decode& decode) {
    const auto half = [&](uint32_t word, size_t k) {
      return decode(static_cast<uint16_t>(k % 2 == 0 ? word : word >> 16U));
    };
    double left[16][16], right[8][16];  // Of b a column a row.
    for (size_t k = 0; k < 16; ++k) {
      const size_t place = k % 8 / 2, upper = k / 8;
      for (size_t row = 0; row < 16; ++row) {
        left[row][k] = half(a[2 * upper + row / 8][4 * (row % 8) + place], k);
      }
      for (size_t column = 0; column < 8; ++column) {
        right[column][k] = half(b[upper][4 * column + place], k);
      }
    }
    Multiply(c, left, right);
  }
  template <size_t kInner>
  static void Multiply(Floats (&c)[4], const double (&left)[16][kInner],
                       const double (&right)[8][kInner]) {
    for (size_t row = 0; row < 16; ++row) {
      for (size_t column = 0; column < 8; ++column) {
        float& to = c[2 * (row / 8) + column % 2].lane[4 * (row % 8) + column / 2];
        auto sum = static_cast<double>(to);
        for (size_t k = 0; k < kInner; ++k) sum += left[row][k] * right[column][k];
        to = TowardZero(sum);
      }
    }
  }

  static float TowardZero(double x) {
    const auto near = static_cast<float>(x);
    return std::abs(static_cast<double>(near)) > std::abs(x) ? std::nextafter(near, 0.0F) : near;
  }
};

}  // namespace mnemosyne::kernels::cuda
