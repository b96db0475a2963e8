/* A full memory fence, which Python does not offer: see ordering.py. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyObject *py_fence(PyObject *self, PyObject *unused)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"fence", py_fence, METH_NOARGS, "order all earlier loads and stores before all later ones, for all processors"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "fences", NULL, -1, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_fences(void)
{
    return PyModule_Create(&MODULE);
}
