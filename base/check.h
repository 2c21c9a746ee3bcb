// Checks of what only a programmer's mistake can break. They stay on in release builds and abort.
#pragma once

#include <cstdio>
#include <cstdlib>

#define MNEMO_CHECK(condition)                                                           \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: check failed: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                      \
    }                                                                                    \
  } while (false)
