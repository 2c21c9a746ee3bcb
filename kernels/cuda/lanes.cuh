// A warp's lanes on a GPU: what mnemosyne_team.h is written in. A number of each lane is a plain
// float here, since a thread is a lane. The file that includes this is compiled without contraction
// of multiply-adds, so that an expression has the same bits wherever it stands.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace mnemosyne::kernels::cuda {

struct WarpLanes {
  using Floats = float;
  using Doubles = double;
  using Ints = int;
  using Bools = bool;
  using Words = uint32_t;

  // Calls f(here): here.lane is the lane, here(x) its own one of the numbers x.
  struct Here {
    int lane;
    template <typename T>
    __device__ __forceinline__ T& operator()(T& x) const {
      return x;
    }
  };
  template <typename F>
  static __device__ __forceinline__ void Each(const F& f) {
    f(Here{Lane()});
  }

  // c [16, 8] += a [16, 16] b [16, 8] of bfloat16 numbers, two a word, in the layout of fragments
  // that PTX gives for mma.m16n8k16.
  static __device__ __forceinline__ void Mma(Floats (&c)[4], const Words (&a)[4],
                                             const Words (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  // The same of float16 numbers; and of bfloat16 numbers again, for the compiler to move about.
  static __device__ __forceinline__ void MmaHalf(Floats (&c)[4], const Words (&a)[4],
                                                 const Words (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  static __device__ __forceinline__ void MmaBrain(Floats (&c)[4], const Words (&a)[4],
                                                  const Words (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }

  // c [16, 8] += a [16, 8] b [8, 8] of numbers that tf32 has, in the layout of mma.m16n8k8.
  static __device__ __forceinline__ void MmaSplit(Floats (&c)[4], const Floats (&a)[4],
                                                  const Floats (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(Bits(a[0])), "r"(Bits(a[1])), "r"(Bits(a[2])), "r"(Bits(a[3])), "r"(Bits(b[0])),
          "r"(Bits(b[1])));
  }

  // Four matrices of 8 rows of 4 words of shared memory; lane 8 i + r says where row r of matrix i
  // is. Lane 4 g + t gets word t of row g of each; or, transposed, halves g of rows 2 t and 2 t
  // + 1.
  static __device__ __forceinline__ void LoadMatrices(Words (&x)[4], const uint32_t* from,
                                                      Ints at) {
    const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(from + at));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(place)
                 : "memory");
  }
  static __device__ __forceinline__ void LoadTransposed(Words (&x)[4], const uint32_t* from,
                                                        Ints at) {
    const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(from + at));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"(place)
                 : "memory");
  }
  static __device__ bool Any(Bools which) { return __any_sync(kAll, which) != 0; }

  static __device__ Ints Lane() { return static_cast<int>(threadIdx.x & 31U); }
  static __device__ void Sync() { __syncwarp(); }

  static __device__ Floats Fma(Floats a, Floats b, Floats c) { return __fmaf_rn(a, b, c); }
  static __device__ Doubles FmaDouble(Doubles a, Doubles b, Doubles c) { return fma(a, b, c); }
  static __device__ Doubles DivideDouble(Doubles a, Doubles b) { return a / b; }
  static __device__ Doubles ToDouble(Floats x) { return static_cast<double>(x); }
  static __device__ Floats ToFloat(Doubles x) { return static_cast<float>(x); }
  static __device__ Floats ToFloats(Ints x) { return static_cast<float>(x); }
  static __device__ Words ToWords(Ints x) { return static_cast<uint32_t>(x); }
  static __device__ Ints ToInts(Words x) { return static_cast<int>(x); }
  static __device__ Words Bits(Floats x) { return __float_as_uint(x); }
  static __device__ Floats FromBits(Words x) { return __uint_as_float(x); }
  static __device__ Floats Max(Floats a, Floats b) { return fmaxf(a, b); }
  static __device__ Floats Min(Floats a, Floats b) { return fminf(a, b); }
  static __device__ Floats Select(Bools which, Floats yes, Floats no) { return which ? yes : no; }

  // Within 2 units in the last place; a power of two in the argument is one in the result.
  static __device__ Floats Divide(Floats a, Floats b) { return __fdividef(a, b); }
  static __device__ Floats Sqrt(Floats x) {
    float y;
    asm("sqrt.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  // The same of numbers whose denormal ones count as 0, in an instruction each; x is at most 2^126.
  static __device__ Floats Root(Floats x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static __device__ Floats Inverse(Floats x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
  }
  static __device__ Floats Exp(Floats x) { return __expf(fminf(fmaxf(x, -87.0F), 88.0F)); }
  static __device__ Floats Log(Floats x) { return __logf(x); }

  static __device__ Floats Shuffle(Floats x, Ints from) { return __shfl_sync(kAll, x, from); }
  static __device__ Floats Exchange(Floats x, int mask) { return __shfl_xor_sync(kAll, x, mask); }
  static __device__ Doubles Exchange(Doubles x, int mask) { return __shfl_xor_sync(kAll, x, mask); }

  static __device__ Floats Load(const float* p, Ints at) { return p[at]; }
  static __device__ Floats LoadIf(Bools which, const float* p, Ints at) {
    return which ? p[at] : 0.0F;
  }
  static __device__ void StoreIf(Bools which, float* p, Ints at, Floats x) {
    if (which) p[at] = x;
  }
  static __device__ void StoreIf(Bools which, double* p, Doubles x) {
    if (which) *p = x;
  }
  static __device__ void StoreIf(Bools which, uint32_t* p, Bools x) {
    if (which) *p = x ? 1 : 0;
  }

  // Four numbers in a row, the first aligned to 16 bytes.
  static __device__ void LoadFour(const float* p, Ints at, Floats (&x)[4]) {
    const float4 four = *reinterpret_cast<const float4*>(p + at);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
  }
  static __device__ void StoreFour(float* p, Ints at, const Floats (&x)[4]) {
    *reinterpret_cast<float4*>(p + at) = make_float4(x[0], x[1], x[2], x[3]);
  }
  // The same past the caches, for what is not read again soon.
  static __device__ void LoadStream(const float* p, Ints at, Floats (&x)[4]) {
    const float4 four = __ldcs(reinterpret_cast<const float4*>(p + at));
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
  }
  static __device__ void StoreStream(float* p, Ints at, const Floats (&x)[4]) {
    __stcs(reinterpret_cast<float4*>(p + at), make_float4(x[0], x[1], x[2], x[3]));
  }

  // Numbers of 16 bits; four in a row are aligned to 8 bytes.
  static __device__ Words LoadHalfIf(Bools which, const uint16_t* p, Ints at) {
    return which ? p[at] : 0U;
  }
  static __device__ void StoreHalfIf(Bools which, uint16_t* p, Ints at, Words x) {
    if (which) p[at] = static_cast<uint16_t>(x);
  }
  static __device__ void LoadHalves(const uint16_t* p, Ints at, Words (&x)[4]) {
    const uint2 pairs = __ldcs(reinterpret_cast<const uint2*>(p + at));
    x[0] = pairs.x & 0xFFFFU;
    x[1] = pairs.x >> 16;
    x[2] = pairs.y & 0xFFFFU;
    x[3] = pairs.y >> 16;
  }
  static __device__ void LoadSharedHalves(const uint16_t* p, Ints at, Words (&x)[4]) {
    const uint2 pairs = *reinterpret_cast<const uint2*>(p + at);
    x[0] = pairs.x & 0xFFFFU;
    x[1] = pairs.x >> 16;
    x[2] = pairs.y & 0xFFFFU;
    x[3] = pairs.y >> 16;
  }
  // Begins to copy four from a device's memory to that which a block shares; the lane finds them
  // there after AwaitCopies().
  static __device__ void CopyHalves(uint16_t* to, const uint16_t* from, Ints at) {
    const auto place = static_cast<uint32_t>(__cvta_generic_to_shared(to + at));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(place), "l"(from + at)
                 : "memory");
  }
  static __device__ void AwaitCopies() { asm volatile("cp.async.wait_all;" ::: "memory"); }
  static __device__ void StoreHalves(uint16_t* p, Ints at, const Words (&x)[4]) {
    __stcs(reinterpret_cast<uint2*>(p + at), make_uint2(x[0] | x[1] << 16, x[2] | x[3] << 16));
  }

 private:
  static constexpr unsigned kAll = 0xFFFFFFFFU;
};

}  // namespace mnemosyne::kernels::cuda
