// Passes errors on: MNEMO_RETURN_IF_ERROR(expr) and MNEMO_ASSIGN_OR_RETURN(lhs, expr).
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define MNEMO_RETURN_IF_ERROR(expr)                                                  \
  do {                                                                               \
    if (absl::Status mnemo_status = (expr); !mnemo_status.ok()) return mnemo_status; \
  } while (false)

#define MNEMO_CONCAT_INNER(a, b) a##b
#define MNEMO_CONCAT(a, b) MNEMO_CONCAT_INNER(a, b)
#define MNEMO_ASSIGN_OR_RETURN(lhs, expr) \
  MNEMO_ASSIGN_OR_RETURN_IMPL(MNEMO_CONCAT(mnemo_statusor_, __LINE__), lhs, expr)
#define MNEMO_ASSIGN_OR_RETURN_IMPL(result, lhs, expr) \
  auto result = (expr);                                \
  if (!result.ok()) return result.status();            \
  lhs = *std::move(result)
