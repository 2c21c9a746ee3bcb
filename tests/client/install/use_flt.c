/* A program in C that attends with the installed library: with one key, outputs are its value. */
#include <math.h>
#include <mnemosyne_flt.h>
#include <stdio.h>
#include <stdlib.h>

static MnemosyneFltTensor tensor(float* data, int64_t* shape) {
  MnemosyneFltTensor result = {data, 1, 0, 4, 2, 32, 1, shape, NULL, 0};
  return result;
}

static void check(int error) {
  if (error == 0) return;
  fprintf(stderr, "%s\n", mnemosyne_flt_error());
  exit(1);
}

int main(void) {
  MnemosyneFltConfig config = {0};
  config.struct_size = sizeof(config);
  config.heads = 1;
  config.dim = config.value_dim = 4;
  config.features = 8;
  config.feature_map = "favor_plus";
  config.rpe = "none";
  config.positions = 1;
  MnemosyneFltSizes sizes;
  check(mnemosyne_flt_sizes(&config, &sizes));
  const size_t count = sizes.projection_rows * sizes.projection_inputs;
  float* const projection = malloc(count * sizeof(float));
  check(mnemosyne_flt_draw_projection(&config, 0, 1, projection));
  MnemosyneFltKernel* kernel = NULL;
  check(mnemosyne_flt_create(&config, NULL, 0, NULL, 0, projection, count, &kernel));

  float q[4] = {1, 2, 3, 4}, k[4] = {4, 3, 2, 1}, v[4] = {5, 6, 7, 8}, out[4] = {0};
  int64_t shape[4] = {1, 1, 1, 4};
  const MnemosyneFltTensor of_q = tensor(q, shape), of_k = tensor(k, shape),
                           of_v = tensor(v, shape), of_out = tensor(out, shape);
  MnemosyneFltCall call = {0};
  call.struct_size = sizeof(call);
  call.q = &of_q;
  call.k = &of_k;
  call.v = &of_v;
  call.out = &of_out;
  check(mnemosyne_flt_forward(kernel, &call));
  mnemosyne_flt_free(kernel);
  free(projection);
  for (int i = 0; i < 4; ++i) {
    if (fabsf(out[i] - v[i]) > 1e-5F) {
      fprintf(stderr, "number %d is %g, expected %g\n", i, out[i], v[i]);
      return 1;
    }
  }
  return 0;
}
