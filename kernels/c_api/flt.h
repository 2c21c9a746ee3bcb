/* FLT attention as a shared library with a plain C interface: for PyTorch, NumPy, and any language
 * that can call C. Tensors are DLPack's DLTensor, whose layout is fixed by its specification, so
 * that no framework's version is baked in.
 *
 * Functions return 0, or a number that is not 0 with a sentence from mnemosyne_flt_error. They may
 * be called from any thread; calls on one device wait for each other. A CUDA device works on a
 * stream of the library's own: what a call is given has to be written before, and what it answers
 * is written when it returns.
 */
#ifndef MNEMOSYNE_KERNELS_C_API_FLT_H_
#define MNEMOSYNE_KERNELS_C_API_FLT_H_

#include <stddef.h>
#include <stdint.h>

#if defined(MNEMOSYNE_FLT_LIBRARY)
#define MNEMOSYNE_FLT_API __attribute__((visibility("default")))
#else
#define MNEMOSYNE_FLT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* The layout of DLPack's DLTensor. */
typedef struct {
  void* data;
  int32_t device_type; /* 1 is the CPU, 2 CUDA. */
  int32_t device_id;
  int32_t ndim;
  uint8_t type_code; /* 1 is unsigned integers, 2 floats, 4 bfloat, 6 booleans. */
  uint8_t type_bits;
  uint16_t type_lanes;
  int64_t* shape;
  int64_t* strides; /* In elements; null if dense. */
  uint64_t byte_offset;
} MnemosyneFltTensor;

/* What a kernel is made of; see flt/flt_kernel.h and flt/rpe.h. */
typedef struct {
  size_t struct_size; /* sizeof(MnemosyneFltConfig), so that the struct can grow. */
  size_t heads, dim, value_dim, features;
  const char* feature_map; /* favor_plus, favor_plus_plus, hyperbolic, relu, elu or dpfp. */
  double scale;            /* Of q . k; 0 is 1 / sqrt(dim). */
  double square_sum;       /* Of favor_plus_plus. */
  double epsilon;          /* Of relu. */
  const char* rpe;         /* none, gaussian_mixture, shift_invariant, local_box or local_ball. */
  size_t positions, waves, modes;
  int32_t is_signed;
  int32_t multiplicative;
  int32_t squared;
  int32_t clamp_negative_masks;
  double frequency_scale;
  double norm_max; /* 0 for no bound. */
} MnemosyneFltConfig;

/* Sizes that follow from a config. */
typedef struct {
  size_t parameters;        /* Of the encoding, a head. */
  size_t waves;             /* Of the mask. */
  size_t projection_rows;   /* P; 0 if the map has no projection. */
  size_t projection_inputs; /* E */
  size_t features;          /* M, as the map can have it. */
  size_t state;             /* Floats of a head's running state. */
} MnemosyneFltSizes;

typedef struct MnemosyneFltKernel MnemosyneFltKernel;

/* A call. q, k [batch, heads, length, dim] and v, out [batch, heads, length, value_dim] are of one
 * type: float32, bfloat16 or float16, with contiguous rows. */
typedef struct {
  size_t struct_size;
  const MnemosyneFltTensor *q, *k, *v, *out;
  const MnemosyneFltTensor* positions;   /* Float32 [length, l] or [batch, length, l]; or null. */
  const MnemosyneFltTensor* mask;        /* Bytes or booleans [batch, length]; or null. */
  const MnemosyneFltTensor* state;       /* Float32 [batch, heads, state], changed; or null. */
  const MnemosyneFltTensor* normalizers; /* Float32 [batch, heads, length, 2]; or null. */
  int32_t causal;
  int32_t threads; /* On the CPU; 0 is one for each core. Results do not depend on it. */
  const size_t* sequence_starts; /* [start_count], or null for one sequence. */
  size_t start_count;
  size_t clamped_rows; /* Out: rows whose denominator was held above its floor. */
} MnemosyneFltCall;

/* Gradients of a call, whose `out` and `normalizers` are given. Null for those not wanted; q, k and
 * v go together. Those of parameters are dense float32 in host memory, and summed over the batch.
 */
typedef struct {
  size_t struct_size;
  const MnemosyneFltTensor* out_gradient;
  const MnemosyneFltTensor *q_gradient, *k_gradient, *v_gradient;
  float* parameter_gradient;  /* [heads, parameters] */
  float* projection_gradient; /* As the projection was given. */
} MnemosyneFltGradients;

/* What was wrong with this thread's last call that failed. */
MNEMOSYNE_FLT_API const char* mnemosyne_flt_error(void);

MNEMOSYNE_FLT_API int mnemosyne_flt_sizes(const MnemosyneFltConfig* config,
                                          MnemosyneFltSizes* sizes);

/* Rows of norm sqrt(E), or with `chi` of chi-distributed norms: [P, E]. */
MNEMOSYNE_FLT_API int mnemosyne_flt_draw_projection(const MnemosyneFltConfig* config, int chi,
                                                    uint64_t seed, float* projection);

/* Base frequencies [waves, positions], standard normal numbers. */
MNEMOSYNE_FLT_API int mnemosyne_flt_draw_frequencies(size_t waves, size_t positions, uint64_t seed,
                                                     float* base);

/* Makes a kernel. `base` has [waves, positions] or [heads, waves, positions] numbers, `parameters`
 * [heads, parameters], `projection` [P, E] or [heads, P, E]; counts are of floats. */
MNEMOSYNE_FLT_API int mnemosyne_flt_create(const MnemosyneFltConfig* config, const float* base,
                                           size_t base_count, const float* parameters,
                                           size_t parameter_count, const float* projection,
                                           size_t projection_count, MnemosyneFltKernel** kernel);
MNEMOSYNE_FLT_API void mnemosyne_flt_free(MnemosyneFltKernel* kernel);

/* Sets the state [count, state] of streams to that before their first key. */
MNEMOSYNE_FLT_API int mnemosyne_flt_init_state(const MnemosyneFltKernel* kernel, size_t count,
                                               float* state);

MNEMOSYNE_FLT_API int mnemosyne_flt_forward(const MnemosyneFltKernel* kernel,
                                            MnemosyneFltCall* call);
MNEMOSYNE_FLT_API int mnemosyne_flt_backward(const MnemosyneFltKernel* kernel,
                                             const MnemosyneFltCall* call,
                                             const MnemosyneFltGradients* gradients);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MNEMOSYNE_KERNELS_C_API_FLT_H_ */
