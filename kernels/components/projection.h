// Projections for random features: rows that are orthogonal in blocks. They are weights, or made of
// weights once, on the host, in double.
//
// metatrain's components/projections.py is the specification.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace mnemosyne::kernels {

// The first `columns` columns of the product of the Householder reflections of `vectors` [L, d]:
// [d, columns], orthonormal whatever the vectors are. A vector of about 0 reflects nothing.
//
// Source: arXiv 2004.08675 (CWY and T-CWY).
std::vector<double> HouseholderProduct(std::span<const float> vectors, size_t size, size_t columns);

// A projection with learned directions and given row norms: `vectors` [blocks, L, d] and `norms`
// [rows], with rows from above (blocks - 1) d to blocks d. [rows, d].
std::vector<float> CwyProjection(std::span<const float> vectors, std::span<const float> norms,
                                 size_t blocks, size_t size);

// The orthogonal factor of a square matrix [d, d] by QR with a positive diagonal of R: of a
// Gaussian matrix it is uniform over rotations and reflections. [d, d].
//
// Source: arXiv 2009.14794, section 2.4 (orthogonal random features).
std::vector<double> OrthogonalFactor(std::span<const float> matrix, size_t size);

}  // namespace mnemosyne::kernels
