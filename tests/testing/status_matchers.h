// Matchers of absl::Status and absl::StatusOr.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/error.h"

namespace mnemosyne::testing {

inline const absl::Status& GetStatus(const absl::Status& status) { return status; }
template <typename T>
const absl::Status& GetStatus(const absl::StatusOr<T>& result) {
  return result.status();
}

// Matches a status, or the status of a result, that is ok.
MATCHER(IsOk, negation ? "is not OK" : "is OK") {
  *result_listener << GetStatus(arg).ToString();
  return GetStatus(arg).ok();
}

// Matches one with that code and a message that contains `text`.
MATCHER_P2(IsError, code, text,
           (negation ? "is not " : "is ") + absl::StatusCodeToString(code) + " with `" +
               std::string(text) + "`") {
  const absl::Status& status = GetStatus(arg);
  *result_listener << status.ToString();
  return status.code() == code &&
         ErrorMessage(status).find(std::string_view(text)) != std::string_view::npos;
}

}  // namespace mnemosyne::testing

#define ASSERT_OK(expression) ASSERT_THAT((expression), ::mnemosyne::testing::IsOk())
#define EXPECT_OK(expression) EXPECT_THAT((expression), ::mnemosyne::testing::IsOk())
