/* The arithmetic of an exchange in one pass over memory. gossip/averaging/compiled.py needs five or more with NumPy.

Every function takes buffers (NumPy arrays, memoryviews), keeps no state, and releases Python's lock. The compiler does
not fuse multiplications and additions (-ffp-contract=off), because the two halves of an exchange must be exact
opposites. Only the squares are fused: they are for figures. */

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

PIECE v4f first_four(v8f values)
{
    return (v4f)_mm256_castps256_ps128((__m256)values);
}

PIECE v4f last_four(v8f values)
{
    return (v4f)_mm256_extractf128_ps((__m256)values, 1);
}

PIECE v4d doubles(v4f values)
{
    return (v4d)_mm256_cvtps_pd((__m128)values);
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

PIECE v4f first_four(v8f values)
{
    return __builtin_shufflevector(values, values, 0, 1, 2, 3);
}

PIECE v4f last_four(v8f values)
{
    return __builtin_shufflevector(values, values, 4, 5, 6, 7);
}

PIECE v4d doubles(v4f values)
{
    return __builtin_convertvector(values, v4d);
}

static int processor_suits(void)
{
    return 1;
}
#else
#error "this processor has no half precision that is supported here: NumPy is used instead"
#endif

typedef struct {
    double squares, own, total;
} Figures;

/* Named fields, not arrays: compilers keep fields in registers, and spill arrays at every step. */
typedef struct {
    v4d squares_low, squares_high, own_low, own_high, total_low, total_high;
} Sums;

/* Half of (other - mine) of eight values. Each is halved first: the difference of two finite values can overflow. */
PIECE v8f eight(v8f mine, v8f other, Sums *sums)
{
    v8f delta = other * 0.5f - mine * 0.5f;
    v4d low = doubles(first_four(delta)), high = doubles(last_four(delta));
    v4d own_low = doubles(first_four(mine)), own_high = doubles(last_four(mine));
    sums->squares_low = plus_square(sums->squares_low, low);
    sums->squares_high = plus_square(sums->squares_high, high);
    sums->own_low = plus_square(sums->own_low, own_low);
    sums->own_high = plus_square(sums->own_high, own_high);
    sums->total_low += low;
    sums->total_high += high;
    return delta;
}

PIECE double added(v4d low, v4d high)
{
    double sum = 0;
    for (int lane = 0; lane < 4; lane++)
        sum += low[lane];
    for (int lane = 0; lane < 4; lane++)
        sum += high[lane];
    return sum;
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

PIECE Figures halve(const char *mine, const char *other, char *out, Py_ssize_t count, int is_half, int rounds_mine)
{
    Sums sums = {{0}, {0}, {0}, {0}, {0}, {0}};
    Py_ssize_t at = 0;
    v8f own, others, delta;
    for (; at + 8 <= count; at += 8) {
        memcpy(&own, mine + 4 * at, sizeof own);
        if (is_half)
            others = wide((const uint16_t *)(other + 2 * at));
        else
            memcpy(&others, other + 4 * at, sizeof others);
        delta = eight(rounds_mine ? rounded(own) : own, others, &sums);
        memcpy(out + 4 * at, &delta, sizeof delta);
    }
    if (at < count) {
        own = some_floats(mine, at, count - at, 0);
        others = some_floats(other, at, count - at, is_half);
        delta = eight(rounds_mine ? rounded(own) : own, others, &sums);
        memcpy(out + 4 * at, &delta, 4 * (count - at));
    }
    Figures figures = {added(sums.squares_low, sums.squares_high), added(sums.own_low, sums.own_high),
                       added(sums.total_low, sums.total_high)};
    return figures;
}

/* Compiled once for each combination of the two sides' encodings. */
FAST static Figures halve_any(const char *mine, const char *other, char *out, Py_ssize_t count, int is_half,
                              int rounds_mine)
{
    if (is_half)
        return rounds_mine ? halve(mine, other, out, count, 1, 1) : halve(mine, other, out, count, 1, 0);
    return rounds_mine ? halve(mine, other, out, count, 0, 1) : halve(mine, other, out, count, 0, 0);
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

/* The largest magnitude. NaN and Inf count as larger than every number. Magnitudes have the order of their bits. */
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

#define MEAN_BLOCK 2048 /* values: a block of each part stays in the core's nearest cache */

PIECE v8f eight_at(const char *from, Py_ssize_t at, Py_ssize_t count)
{
    v8f loaded;
    if (at + 8 > count)
        return some_floats(from, at, count - at, 0);
    memcpy(&loaded, from + 4 * at, sizeof loaded);
    return loaded;
}

/* What one part of a mean is measured by: its squared distance from the mean, and its largest magnitude. */
typedef struct {
    double apart;
    float most;
} PartFigures;

FAST static double squares_apart(const char *part, const char *mean, Py_ssize_t count)
{
    v4d sum_low = {0}, sum_high = {0};
    for (Py_ssize_t at = 0; at < count; at += 8) {
        v8f others = eight_at(part, at, count), made = eight_at(mean, at, count);
        v4d low = doubles(first_four(others)) - doubles(first_four(made));
        v4d high = doubles(last_four(others)) - doubles(last_four(made));
        sum_low = plus_square(sum_low, low);
        sum_high = plus_square(sum_high, high);
    }
    return added(sum_low, sum_high);
}

/* The mean of some parts, added in their order, in float32. Returns its squared length. */
FAST static double mean_of(const char **parts, Py_ssize_t many, char *out, Py_ssize_t count, PartFigures *figures)
{
    v4d square_low = {0}, square_high = {0};
    for (Py_ssize_t from = 0; from < count; from += MEAN_BLOCK) {
        Py_ssize_t here = count - from < MEAN_BLOCK ? count - from : MEAN_BLOCK;
        char *made = out + 4 * from;
        for (Py_ssize_t at = 0; at < here; at += 8) {
            v8f sum = eight_at(parts[0] + 4 * from, at, here);
            for (Py_ssize_t part = 1; part < many; part++)
                sum += eight_at(parts[part] + 4 * from, at, here);
            sum /= (float)many;
            square_low = plus_square(square_low, doubles(first_four(sum)));
            square_high = plus_square(square_high, doubles(last_four(sum)));
            memcpy(made + 4 * at, &sum, 4 * (here - at < 8 ? here - at : 8));
        }
        for (Py_ssize_t part = 0; part < many; part++) {
            float most = magnitude(parts[part] + 4 * from, here);
            figures[part].apart += squares_apart(parts[part] + 4 * from, made, here);
            if (!(most <= figures[part].most)) /* NaN stays: no number is larger */
                figures[part].most = figures[part].most == figures[part].most ? most : figures[part].most;
        }
    }
    return added(square_low, square_high);
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
    Py_buffer mine, other, out;
    int is_half, rounds_mine;
    if (!PyArg_ParseTuple(args, "y*y*w*pp", &mine, &other, &out, &is_half, &rounds_mine))
        return NULL;
    PyObject *result = NULL;
    Py_ssize_t values_bytes = is_half ? 2 * other.len : other.len;
    if (mine.len % 4 || out.len != mine.len || values_bytes != mine.len) {
        PyErr_SetString(PyExc_ValueError, "the buffers are not of as many values");
    } else {
        Figures figures;
        Py_BEGIN_ALLOW_THREADS
        figures = halve_any(mine.buf, other.buf, out.buf, mine.len / 4, is_half, rounds_mine);
        Py_END_ALLOW_THREADS
        result = Py_BuildValue("ddd", figures.squares, figures.own, figures.total);
    }
    PyBuffer_Release(&mine);
    PyBuffer_Release(&other);
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

/* Holds the buffers of a tuple, and counts them in ``got``; 0 with an error if one does not fit. */
static int hold_all(PyObject *tuple, Py_ssize_t many, Py_buffer *held, Py_ssize_t *got, Py_ssize_t length)
{
    for (; *got < many; (*got)++) {
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, *got), &held[*got], PyBUF_SIMPLE) < 0)
            return 0;
        if (held[*got].len != length || length % 4) {
            (*got)++;
            PyErr_SetString(PyExc_ValueError, "the buffers are not of as many values");
            return 0;
        }
    }
    return 1;
}

static PyObject *figures_of(const PartFigures *figures, Py_ssize_t many, double square)
{
    PyObject *listed = PyList_New(many);
    for (Py_ssize_t part = 0; listed && part < many; part++) {
        PyObject *one = Py_BuildValue("df", figures[part].apart, figures[part].most);
        if (!one || PyList_SetItem(listed, part, one) < 0)
            Py_CLEAR(listed);
    }
    return listed ? Py_BuildValue("dN", square, listed) : NULL;
}

static PyObject *py_mean(PyObject *self, PyObject *args)
{
    PyObject *tuple, *result = NULL;
    Py_buffer out;
    if (!PyArg_ParseTuple(args, "O!w*", &PyTuple_Type, &tuple, &out))
        return NULL;
    Py_ssize_t many = PyTuple_Size(tuple), got = 0;
    Py_buffer *held = PyMem_Calloc(many + 1, sizeof *held);
    const char **parts = PyMem_Calloc(many + 1, sizeof *parts);
    PartFigures *figures = PyMem_Calloc(many + 1, sizeof *figures);
    if (!held || !parts || !figures) {
        PyErr_NoMemory();
    } else if (!many) {
        PyErr_SetString(PyExc_ValueError, "no buffers have no mean");
    } else if (hold_all(tuple, many, held, &got, out.len)) {
        double square;
        for (Py_ssize_t part = 0; part < many; part++)
            parts[part] = held[part].buf;
        Py_BEGIN_ALLOW_THREADS
        square = mean_of(parts, many, out.buf, out.len / 4, figures);
        Py_END_ALLOW_THREADS
        result = figures_of(figures, many, square);
    }
    while (got--)
        PyBuffer_Release(&held[got]);
    PyMem_Free(held);
    PyMem_Free(parts);
    PyMem_Free(figures);
    PyBuffer_Release(&out);
    return result;
}

static PyMethodDef METHODS[] = {
    {"halve", py_halve, METH_VARARGS, "(mine, other, out, other_is_half, rounds_mine) -> squares, own, total"},
    {"narrow", py_narrow, METH_VARARGS, "float32 values into float16, rounded to nearest"},
    {"widen", py_widen, METH_VARARGS, "float16 values into float32"},
    {"mean", py_mean, METH_VARARGS, "(parts, out) -> square of the mean, (squared distance, magnitude) of each part"},
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
