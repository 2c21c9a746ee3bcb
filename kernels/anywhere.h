// Marks plain functions that a GPU's threads may call, too; nothing where the CUDA compiler is not
// at work.
#pragma once

#ifdef __CUDACC__
#define MNEMOSYNE_ANYWHERE __host__ __device__
#else
#define MNEMOSYNE_ANYWHERE
#endif
