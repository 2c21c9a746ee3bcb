// Named places at which a test build fails on purpose: dies, waits, or meets an error.
//
// The variable MNEMOSYNE_FAIL_POINTS of the environment says what happens where, for example
// `snapshot.rename=kill@3;log.fsync=error:28`: the name of a point, then
//   kill       the process ends as by SIGKILL;
//   delay:MS   the thread sleeps that many milliseconds;
//   error:N    the operation fails with that errno;
// and after an `@` which pass through the point it is, from 1; without it kill means the first
// pass, delay and error mean every one. MNEMOSYNE_FAIL_POINT_LOG names a file to which each point
// that is passed for the first time appends its name, and `met` and its name when what is asked for
// happens there first.
//
// In other builds FAIL_POINT is 0, and the name is not even evaluated.
#pragma once

#include <string_view>

namespace mnemosyne {

// Passes the point `name`; returns the errno with which the operation has to fail, or 0.
// Thread-safe.
int PassFailPoint(std::string_view name);

namespace internal {
inline int NoFailPoint() { return 0; }
}  // namespace internal

}  // namespace mnemosyne

#if defined(MNEMOSYNE_FAIL_POINTS)
#define FAIL_POINT(name) ::mnemosyne::PassFailPoint(name)
#else
#define FAIL_POINT(name) ::mnemosyne::internal::NoFailPoint()
#endif
