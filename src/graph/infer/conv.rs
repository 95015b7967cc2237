//! Convolutions, and the window arithmetic that pooling shares.

use super::Concrete;
use super::call::{Call, Facts, like};
use super::matmul::need_bytes;
use crate::graph::GraphError;
use crate::tensor::DType;

/// How a window walks over the spatial axes. Everything is widened, so that no sum or product of
/// what a file says can overflow.
pub(super) struct Windows {
    kernel: Vec<i128>,
    strides: Vec<i128>,
    dilations: Vec<i128>,
    /// Begin and end of each axis.
    pads: Vec<(i128, i128)>,
    auto: Auto,
    ceil: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Auto {
    NotSet,
    Valid,
    /// The output is as large as the input over the stride.
    Same,
}

impl Windows {
    /// Reads the attributes; `kernel` is the shape of the weight where there is one.
    pub fn read(
        call: &Call,
        spatial: usize,
        kernel: Option<&[usize]>,
    ) -> Result<Windows, GraphError> {
        let given = sizes(call, "kernel_shape", spatial, 1)?;
        let kernel = match (kernel.map(|k| k.iter().map(|&v| v as i128).collect()), given) {
            (Some(weight), Some(given)) if weight != given => {
                return Err(call.invalid(format!("kernel_shape {given:?} is not {weight:?}")));
            }
            (Some(kernel), _) | (None, Some(kernel)) => kernel,
            (None, None) => return Err(call.invalid("attribute `kernel_shape` is missing")),
        };
        if kernel.len() != spatial || kernel.contains(&0) {
            return Err(call.invalid(format!("a kernel of {kernel:?} for {spatial} axes")));
        }
        let ones = || vec![1; spatial];
        let pads = match sizes(call, "pads", 2 * spatial, 0)? {
            None => vec![(0, 0); spatial],
            Some(p) => p[..spatial].iter().copied().zip(p[spatial..].iter().copied()).collect(),
        };
        let auto = match call.str_or("auto_pad", "NOTSET")? {
            "NOTSET" | "" => Auto::NotSet,
            "VALID" => Auto::Valid,
            "SAME_UPPER" | "SAME_LOWER" => Auto::Same,
            other => return Err(call.invalid(format!("auto_pad `{other}`"))),
        };
        Ok(Windows {
            kernel,
            strides: sizes(call, "strides", spatial, 1)?.unwrap_or_else(ones),
            dilations: sizes(call, "dilations", spatial, 1)?.unwrap_or_else(ones),
            pads: if auto == Auto::NotSet { pads } else { vec![(0, 0); spatial] },
            auto,
            ceil: call.flag("ceil_mode", false)?,
        })
    }

    /// Output size of spatial axis `d`.
    pub fn output(&self, call: &Call, d: usize, size: usize) -> Result<usize, GraphError> {
        let (n, stride, (before, after)) = (size as i128, self.strides[d], self.pads[d]);
        let free = n + before + after - self.reach(d);
        let out = match self.auto {
            Auto::Same => div_ceil(n, stride),
            _ if free < 0 => {
                let reach = self.reach(d);
                return Err(call.invalid(format!("a window of {reach} on {n} elements")));
            }
            Auto::NotSet if self.ceil => {
                let out = div_ceil(free, stride) + 1;
                // The last window must start inside the input or the padding before it.
                if (out - 1) * stride >= n + before { out - 1 } else { out }
            }
            _ => free / stride + 1,
        };
        usize::try_from(out).map_err(|_| call.invalid("the output is too large"))
    }

    /// Elements from the first to the last that a window covers.
    fn reach(&self, d: usize) -> i128 {
        (self.kernel[d] - 1) * self.dilations[d] + 1
    }
}

fn div_ceil(a: i128, b: i128) -> i128 {
    a / b + i128::from(a % b != 0)
}

/// The attribute `name`: `n` integers of at least `least`.
fn sizes(call: &Call, name: &str, n: usize, least: i64) -> Result<Option<Vec<i128>>, GraphError> {
    match call.ints_attr(name)? {
        None => Ok(None),
        Some(v) if v.len() == n && v.iter().all(|&v| v >= least) => {
            Ok(Some(v.iter().map(|&v| i128::from(v)).collect()))
        }
        Some(v) => Err(call.invalid(format!(
            "attribute `{name}` is {v:?}: {n} numbers of at least {least} are needed"
        ))),
    }
}

/// The output shape of `x` convolved with `w`.
fn convolved(
    call: &Call,
    x: &Concrete,
    w: &Concrete,
    bias: Option<&Concrete>,
) -> Result<Vec<usize>, GraphError> {
    let (channels, spatial) = planes(call, x)?;
    let group = group(call)?;
    let bad = || {
        let (x, w) = (&x.shape, &w.shape);
        call.invalid(format!("weight {w:?} does not fit input {x:?} in {group} groups"))
    };
    let &[features, per_group, ref kernel @ ..] = &w.shape[..] else { return Err(bad()) };
    let fits = per_group.checked_mul(group) == Some(channels) && features.is_multiple_of(group);
    if !fits || kernel.len() != spatial.len() {
        return Err(bad());
    }
    need_bias(call, bias, features)?;
    let windows = Windows::read(call, spatial.len(), Some(kernel))?;
    let mut shape = vec![x.shape[0], features];
    for (d, &n) in spatial.iter().enumerate() {
        shape.push(windows.output(call, d, n)?);
    }
    Ok(shape)
}

fn group(call: &Call) -> Result<usize, GraphError> {
    match call.size(call.int_or("group", 1)?, "group")? {
        0 => Err(call.invalid("group is 0")),
        n => Ok(n),
    }
}

fn need_bias(call: &Call, bias: Option<&Concrete>, features: usize) -> Result<(), GraphError> {
    bias.map_or(Ok(()), |b| call.need_shape("the bias", b, &[features]))
}

/// Channels and spatial dimensions of `[N, C, ..]`.
pub(super) fn planes<'a>(call: &Call, x: &'a Concrete) -> Result<(usize, &'a [usize]), GraphError> {
    match &x.shape[..] {
        &[_, channels, ref spatial @ ..] if !spatial.is_empty() => Ok((channels, spatial)),
        shape => Err(call.invalid(format!("the input has shape {shape:?}, not [N, C, ..]"))),
    }
}

/// `Conv`.
pub(super) fn conv(call: &Call) -> Facts {
    let (x, w, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
    call.need_float(x)?;
    call.need_same_type(&[&[x, w][..], &bias.map_or(vec![], |b| vec![b])].concat())?;
    Ok(vec![like(x, convolved(call, x, w, bias)?)])
}

/// `ConvInteger`.
pub(super) fn conv_integer(call: &Call) -> Facts {
    let (x, w) = (call.input(0)?, call.input(1)?);
    need_bytes(call, &[x, w])?;
    Ok(vec![Concrete::unknown(DType::I32, convolved(call, x, w, None)?)])
}

/// `QLinearConv`.
pub(super) fn qlinear_conv(call: &Call) -> Facts {
    let (x, w, zero) = (call.input(0)?, call.input(3)?, call.input(7)?);
    need_bytes(call, &[x, w, zero])?;
    Ok(vec![like(zero, convolved(call, x, w, call.optional(8))?)])
}

/// `ConvTranspose`.
pub(super) fn conv_transpose(call: &Call) -> Facts {
    let (x, w, bias) = (call.input(0)?, call.input(1)?, call.optional(2));
    call.need_float(x)?;
    call.need_same_type(&[x, w])?;
    let (channels, spatial) = planes(call, x)?;
    let group = group(call)?;
    let &[inner, per_group, ref kernel @ ..] = &w.shape[..] else {
        return Err(call.invalid(format!("the weight has shape {:?}", w.shape)));
    };
    let features = per_group.checked_mul(group);
    let features = features.ok_or_else(|| call.invalid("too many channels"))?;
    if inner != channels || !channels.is_multiple_of(group) {
        return Err(call.invalid(format!("{channels} channels for a weight of {inner}")));
    }
    need_bias(call, bias, features)?;
    let n = spatial.len();
    let windows = Windows::read(call, n, Some(kernel))?;
    let extra = sizes(call, "output_padding", n, 0)?.unwrap_or_else(|| vec![0; n]);
    let wanted = sizes(call, "output_shape", n, 0)?;
    let mut shape = vec![x.shape[0], features];
    for d in 0..n {
        let (size, stride, (before, after)) =
            (spatial[d] as i128, windows.strides[d], windows.pads[d]);
        let out = match (&wanted, windows.auto) {
            (Some(shape), _) => shape[d],
            (None, Auto::Same) => size * stride,
            _ => stride * (size - 1) + extra[d] + windows.reach(d) - before - after,
        };
        let out = usize::try_from(out);
        shape.push(out.map_err(|_| call.invalid("an output size is out of range"))?);
    }
    Ok(vec![like(x, shape)])
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    fn conv(attrs: crate::graph::Attrs, x: &[usize], w: &[usize]) -> Option<Vec<usize>> {
        let y = run("Conv", attrs, &[unknown(x), unknown(w)]).ok()?;
        Some(y[0].shape.clone())
    }

    #[test]
    fn sizes_follow_the_formula() {
        let x = [2, 3, 224, 224];
        let patch = attrs().with("strides", &[16, 16][..]);
        assert_eq!(conv(patch, &x, &[8, 3, 16, 16]).unwrap(), [2, 8, 14, 14]);
        let same = attrs().with("auto_pad", "SAME_UPPER").with("strides", &[2, 2][..]);
        assert_eq!(conv(same, &[1, 3, 7, 8], &[4, 3, 3, 3]).unwrap(), [1, 4, 4, 4]);
        let valid = attrs().with("auto_pad", "VALID").with("pads", &[1, 1, 1, 1][..]);
        assert_eq!(conv(valid, &[1, 3, 7, 8], &[4, 3, 3, 3]).unwrap(), [1, 4, 5, 6]);
        let wide = attrs().with("dilations", &[2][..]).with("pads", &[1, 2][..]);
        assert_eq!(conv(wide, &[1, 3, 9], &[4, 3, 3]).unwrap(), [1, 4, 8]);
        let depth = attrs().with("group", 6);
        assert_eq!(conv(depth, &[1, 6, 9], &[6, 1, 3]).unwrap(), [1, 6, 7]);
    }

    #[test]
    fn bad_convolutions_are_refused() {
        let x = [1, 3, 9];
        let w = [4, 3, 3];
        assert!(conv(attrs(), &[1, 3], &[4, 3]).is_none());
        assert!(conv(attrs(), &[1, 2, 9], &w).is_none());
        assert!(conv(attrs(), &[1, 3, 2], &w).is_none());
        assert!(conv(attrs(), &x, &[4, 3, 3, 3]).is_none());
        assert!(conv(attrs(), &x, &[4, 3, 0]).is_none());
        assert!(conv(attrs().with("group", 0), &x, &w).is_none());
        assert!(conv(attrs().with("group", i64::MAX), &x, &w).is_none());
        assert!(conv(attrs().with("strides", &[0][..]), &x, &w).is_none());
        assert!(conv(attrs().with("strides", &[1, 1][..]), &x, &w).is_none());
        assert!(conv(attrs().with("pads", &[-1, 0][..]), &x, &w).is_none());
        assert!(conv(attrs().with("kernel_shape", &[5][..]), &x, &w).is_none());
        assert!(conv(attrs().with("auto_pad", "SOME"), &x, &w).is_none());
        assert!(conv(attrs().with("pads", &[i64::MAX, i64::MAX][..]), &x, &w).is_none());
        assert!(conv(attrs().with("dilations", &[i64::MAX][..]), &x, &w).is_none());
        assert!(refused("Conv", attrs(), &[unknown(&x), unknown(&w), unknown(&[3])]));
        assert!(refused("Conv", attrs(), &[unknown(&x), ids(&w)]));
    }

    #[test]
    fn transposed_convolutions_grow() {
        let t = |attrs, x: &[usize], w: &[usize]| {
            run("ConvTranspose", attrs, &[unknown(x), unknown(w)]).map(|y| y[0].shape.clone())
        };
        let two = attrs().with("strides", &[2][..]);
        assert_eq!(t(two.clone(), &[1, 4, 5], &[4, 3, 3]).unwrap(), [1, 3, 11]);
        let more = two.clone().with("pads", &[1, 1][..]).with("output_padding", &[1][..]);
        assert_eq!(t(more, &[1, 4, 5], &[4, 3, 3]).unwrap(), [1, 3, 10]);
        let same = two.clone().with("auto_pad", "SAME_LOWER");
        assert_eq!(t(same, &[1, 4, 5], &[4, 3, 3]).unwrap(), [1, 3, 10]);
        let fixed = two.clone().with("output_shape", &[12][..]);
        assert_eq!(t(fixed, &[1, 4, 5], &[4, 3, 3]).unwrap(), [1, 3, 12]);
        assert!(t(two.clone(), &[1, 5, 5], &[4, 3, 3]).is_err());
        assert!(t(two.with("pads", &[99, 99][..]), &[1, 4, 5], &[4, 3, 3]).is_err());
        assert!(t(attrs().with("strides", &[i64::MAX][..]), &[1, 4, 5], &[4, 3, 3]).is_err());
    }

    #[test]
    fn quantized_convolutions_keep_the_shape() {
        let q = |shape: &[usize]| Concrete::unknown(DType::U8, shape);
        let y = run("ConvInteger", attrs(), &[q(&[1, 3, 9]), q(&[4, 3, 3])]).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::I32, vec![1, 4, 7]));
        let s = unknown(&[]);
        let all = [q(&[1, 3, 9]), s.clone(), q(&[]), q(&[4, 3, 3]), s.clone(), q(&[]), s, q(&[])];
        let y = run("QLinearConv", attrs(), &all).unwrap().remove(0);
        assert_eq!((y.dtype, y.shape), (DType::U8, vec![1, 4, 7]));
        assert!(refused("QLinearConv", attrs(), &all[..7]));
    }
}
