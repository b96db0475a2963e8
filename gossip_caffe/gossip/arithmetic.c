/* The arithmetic of an exchange in one pass over memory: what gossip/compiled.py does with NumPy in five or more.

Every function takes buffers (NumPy arrays, memoryviews), keeps nothing, and lets go of Python's lock. Multiplications
and additions are not fused by the compiler (-ffp-contract=off): the two halves of an exchange must be exact opposites.
Only the squares are, which are for figures. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

typedef float v8f __attribute__((vector_size(32)));
typedef int32_t v8i __attribute__((vector_size(32)));
typedef float v4f __attribute__((vector_size(16)));
typedef double v4d __attribute__((vector_size(32)));

#if defined(__x86_64__)
#include <immintrin.h>
#define FAST __attribute__((target("avx2,f16c,fma")))
#define PIECE static inline __attribute__((target("avx2,f16c,fma"), always_inline))

PIECE v8f wide(const uint16_t *from)
{
    return (v8f)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}

PIECE void narrow(uint16_t *to, v8f values)
{
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

PIECE v8f rounded(v8f values)
{
    return (v8f)_mm256_cvtph_ps(_mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

PIECE v4d plus_square(v4d sum, v4d value)
{
    return (v4d)_mm256_fmadd_pd((__m256d)value, (__m256d)value, (__m256d)sum);
}

static int processor_suits(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && __builtin_cpu_supports("fma");
}
#elif defined(__aarch64__)
#define FAST
#define PIECE static inline __attribute__((always_inline))
typedef __fp16 v8h __attribute__((vector_size(16)));

PIECE v8f wide(const uint16_t *from)
{
    v8h values;
    memcpy(&values, from, sizeof values);
    return __builtin_convertvector(values, v8f);
}

PIECE void narrow(uint16_t *to, v8f values)
{
    v8h narrowed = __builtin_convertvector(values, v8h);
    memcpy(to, &narrowed, sizeof narrowed);
}

PIECE v8f rounded(v8f values)
{
    return __builtin_convertvector(__builtin_convertvector(values, v8h), v8f);
}

PIECE v4d plus_square(v4d sum, v4d value)
{
    return sum + value * value;
}

static int processor_suits(void)
{
    return 1;
}
#else
#error "no half precision here: NumPy does it"
#endif

typedef struct {
    double squares, norm, total;
} Figures;

typedef struct {
    v4d squares[2], norm[2], total[2];
} Sums;

PIECE v4d first_four(v8f values)
{
    return __builtin_convertvector(__builtin_shufflevector(values, values, 0, 1, 2, 3), v4d);
}

PIECE v4d last_four(v8f values)
{
    return __builtin_convertvector(__builtin_shufflevector(values, values, 4, 5, 6, 7), v4d);
}

/* Eight values: half of (theirs - mine), each halved first, for the difference of two finite values can overflow. */
PIECE v8f eight(v8f mine, v8f theirs, Sums *sums)
{
    v8f delta = theirs * 0.5f - mine * 0.5f;
    v4d exact[2] = {first_four(delta), last_four(delta)}, others[2] = {first_four(theirs), last_four(theirs)};
    for (int four = 0; four < 2; four++) {
        sums->squares[four] = plus_square(sums->squares[four], exact[four]);
        sums->norm[four] = plus_square(sums->norm[four], others[four]);
        sums->total[four] += exact[four];
    }
    return delta;
}

PIECE v8f some_floats(const char *from, Py_ssize_t at, Py_ssize_t count, int is_half)
{
    float values[8] = {0};
    uint16_t halves[8] = {0};
    if (is_half) {
        memcpy(halves, from + 2 * at, 2 * count);
        return wide(halves);
    }
    memcpy(values, from + 4 * at, 4 * count);
    v8f loaded;
    memcpy(&loaded, values, sizeof loaded);
    return loaded;
}

PIECE Figures halve(const char *mine, const char *theirs, char *out, Py_ssize_t count, int is_half, int rounds_mine)
{
    Sums sums = {{{0}, {0}}, {{0}, {0}}, {{0}, {0}}};
    Py_ssize_t at = 0;
    v8f own, others, delta;
    for (; at + 8 <= count; at += 8) {
        memcpy(&own, mine + 4 * at, sizeof own);
        if (is_half)
            others = wide((const uint16_t *)(theirs + 2 * at));
        else
            memcpy(&others, theirs + 4 * at, sizeof others);
        delta = eight(rounds_mine ? rounded(own) : own, others, &sums);
        memcpy(out + 4 * at, &delta, sizeof delta);
    }
    if (at < count) {
        own = some_floats(mine, at, count - at, 0);
        others = some_floats(theirs, at, count - at, is_half);
        delta = eight(rounds_mine ? rounded(own) : own, others, &sums);
        memcpy(out + 4 * at, &delta, 4 * (count - at));
    }
    Figures figures = {0, 0, 0};
    for (int lane = 0; lane < 8; lane++) {
        figures.squares += sums.squares[lane / 4][lane % 4];
        figures.norm += sums.norm[lane / 4][lane % 4];
        figures.total += sums.total[lane / 4][lane % 4];
    }
    return figures;
}

/* One compiled form for each encoding of the two sides. */
FAST static Figures halve_any(const char *mine, const char *theirs, char *out, Py_ssize_t count, int is_half,
                              int rounds_mine)
{
    if (is_half)
        return rounds_mine ? halve(mine, theirs, out, count, 1, 1) : halve(mine, theirs, out, count, 1, 0);
    return rounds_mine ? halve(mine, theirs, out, count, 0, 1) : halve(mine, theirs, out, count, 0, 0);
}

FAST static void narrowed(const char *values, char *out, Py_ssize_t count)
{
    Py_ssize_t at = 0;
    v8f eight_values;
    for (; at + 8 <= count; at += 8) {
        memcpy(&eight_values, values + 4 * at, sizeof eight_values);
        narrow((uint16_t *)(out + 2 * at), eight_values);
    }
    if (at < count) {
        uint16_t last[8];
        narrow(last, some_floats(values, at, count - at, 0));
        memcpy(out + 2 * at, last, 2 * (count - at));
    }
}

FAST static void widened(const char *halves, char *out, Py_ssize_t count)
{
    Py_ssize_t at = 0;
    for (; at + 8 <= count; at += 8) {
        v8f values = wide((const uint16_t *)(halves + 2 * at));
        memcpy(out + 4 * at, &values, sizeof values);
    }
    if (at < count) {
        v8f values = some_floats(halves, at, count - at, 1);
        memcpy(out + 4 * at, &values, 4 * (count - at));
    }
}

/* The largest magnitude; NaN and Inf are larger than every number. Magnitudes order as their bits do. */
FAST static float magnitude(const char *values, Py_ssize_t count)
{
    v8i most = {0};
    Py_ssize_t at = 0;
    for (; at + 8 <= count; at += 8) {
        v8i bits;
        memcpy(&bits, values + 4 * at, sizeof bits);
        bits &= 0x7fffffff;
        v8i larger = bits > most;
        most = (bits & larger) | (most & ~larger);
    }
    int32_t found = 0;
    for (int lane = 0; lane < 8; lane++)
        found = most[lane] > found ? most[lane] : found;
    for (; at < count; at++) {
        int32_t bits;
        memcpy(&bits, values + 4 * at, sizeof bits);
        bits &= 0x7fffffff;
        found = bits > found ? bits : found;
    }
    float as_float;
    memcpy(&as_float, &found, sizeof as_float);
    return as_float;
}

static int lengths_fit(Py_ssize_t values_bytes, Py_ssize_t halves_bytes)
{
    if (values_bytes % 4 == 0 && halves_bytes * 2 == values_bytes)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the buffers are not of as many values");
    return 0;
}

static PyObject *py_halve(PyObject *self, PyObject *args)
{
    Py_buffer mine, theirs, out;
    int is_half, rounds_mine;
    if (!PyArg_ParseTuple(args, "y*y*w*pp", &mine, &theirs, &out, &is_half, &rounds_mine))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t values_bytes = is_half ? 2 * theirs.len : theirs.len;
    if (mine.len % 4 || out.len != mine.len || values_bytes != mine.len) {
        PyErr_SetString(PyExc_ValueError, "the buffers are not of as many values");
    } else {
        Figures figures;
        Py_BEGIN_ALLOW_THREADS
        figures = halve_any(mine.buf, theirs.buf, out.buf, mine.len / 4, is_half, rounds_mine);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("ddd", figures.squares, figures.norm, figures.total);
    }
    PyBuffer_Release(&mine);
    PyBuffer_Release(&theirs);
    PyBuffer_Release(&out);
    return result;
}

static PyObject *py_narrow(PyObject *self, PyObject *args)
{
    Py_buffer values, out;
    if (!PyArg_ParseTuple(args, "y*w*", &values, &out))
        return NULL;
    int fits = lengths_fit(values.len, out.len);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        narrowed(values.buf, out.buf, values.len / 4);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&values);
    PyBuffer_Release(&out);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_widen(PyObject *self, PyObject *args)
{
    Py_buffer halves, out;
    if (!PyArg_ParseTuple(args, "y*w*", &halves, &out))
        return NULL;
    int fits = lengths_fit(out.len, halves.len);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        widened(halves.buf, out.buf, out.len / 4);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&halves);
    PyBuffer_Release(&out);
    if (!fits)
        return NULL;
    Py_RETURN_NONE;
}

static PyObject *py_magnitude(PyObject *self, PyObject *args)
{
    Py_buffer values;
    if (!PyArg_ParseTuple(args, "y*", &values))
        return NULL;
    float found;
    Py_BEGIN_ALLOW_THREADS
    found = magnitude(values.buf, values.len / 4);
    Py_END_ALLOW_THREADS
    PyBuffer_Release(&values);
    return PyFloat_FromDouble(found);
}

static PyMethodDef METHODS[] = {
    {"halve", py_halve, METH_VARARGS, "(mine, theirs, out, theirs_is_half, rounds_mine) -> squares, norm, total"},
    {"narrow", py_narrow, METH_VARARGS, "float32 values into float16, rounded to nearest"},
    {"widen", py_widen, METH_VARARGS, "float16 values into float32"},
    {"magnitude", py_magnitude, METH_VARARGS, "the largest magnitude of float32 values; NaN is larger than all"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "arithmetic", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_arithmetic(void)
{
    if (!processor_suits()) {
        PyErr_SetString(PyExc_ImportError, "this processor lacks AVX2, F16C or FMA");
        return NULL;
    }
    return PyModule_Create(&MODULE);
}
