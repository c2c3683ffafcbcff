// The views of ndarray (npm, MIT) without code made from text, which our Content-Security-Policy forbids on the page.
// prepare.py replaces ndarray's own function by this one. It makes the constructor of views of a dimension on arrays of
// a type; dimension -1 is the view of nothing.
function compileConstructor(dtype, dimension) {
  const constructors = CACHED_CONSTRUCTORS[dtype];
  const times = (a, b) => a * b;
  const given = (place) => typeof place === 'number' && place >= 0;

  class View {
    constructor(data, shape, stride, offset) {
      this.data = data;
      this.shape = shape;
      this.stride = stride;
      this.offset = offset | 0;
    }

    get size() {
      return dimension < 0 ? 0 : this.shape.reduce(times, 1);
    }

    get order() {
      return this.stride.map((_, axis) => axis).sort((a, b) => Math.abs(this.stride[a]) - Math.abs(this.stride[b]));
    }

    index(...at) {
      return dimension < 0 ? -1 : this.stride.reduce((sum, stride, axis) => sum + stride * at[axis], this.offset);
    }

    get(...at) {
      return dtype === 'generic' ? this.data.get(this.index(...at)) : this.data[this.index(...at)];
    }

    set(...at) {
      const value = at[dimension];
      return dtype === 'generic' ? this.data.set(this.index(...at), value) : (this.data[this.index(...at)] = value);
    }

    valueOf() {
      return dimension === 0 ? this.get() : this;
    }

    hi(...ends) {
      const shape = this.shape.map((length, axis) => (given(ends[axis]) ? ends[axis] | 0 : length));
      return new View(this.data, shape, [...this.stride], this.offset);
    }

    lo(...starts) {
      const skipped = this.shape.map((_, axis) => (given(starts[axis]) ? starts[axis] | 0 : 0));
      const shape = this.shape.map((length, axis) => length - skipped[axis]);
      return new View(this.data, shape, [...this.stride], this.index(...skipped));
    }

    step(...steps) {
      const by = this.shape.map((_, axis) => (typeof steps[axis] === 'number' ? steps[axis] | 0 : 1));
      const shape = this.shape.map((length, axis) => Math.ceil(length / Math.abs(by[axis])));
      const stride = this.stride.map((length, axis) => length * by[axis]);
      // With a negative step, it begins at the end.
      const first = this.shape.map((length, axis) => (by[axis] < 0 ? length - 1 : 0));
      return new View(this.data, shape, stride, this.index(...first));
    }

    transpose(...axes) {
      const from = this.shape.map((_, axis) => (axes[axis] === undefined ? axis : axes[axis] | 0));
      return new View(this.data, from.map((axis) => this.shape[axis]), from.map((axis) => this.stride[axis]), this.offset);
    }

    pick(...at) {
      if (dimension < 0) {
        return null;
      }
      const kept = this.shape.map((_, axis) => axis).filter((axis) => !given(at[axis]));
      const offset = this.index(...this.shape.map((_, axis) => (given(at[axis]) ? at[axis] : 0)));
      const shape = kept.map((axis) => this.shape[axis]);
      return constructors[shape.length + 1](this.data, shape, kept.map((axis) => this.stride[axis]), offset);
    }
  }
  View.prototype.dtype = dtype;
  View.prototype.dimension = dimension;
  if (dimension === 2) {
    // Masks and images are read pixel by pixel.
    View.prototype.index = function (row, column) {
      return this.offset + this.stride[0] * row + this.stride[1] * column;
    };
  }
  return (data, shape = [], stride = [], offset = 0) => new View(data, [...shape], [...stride], offset);
}
