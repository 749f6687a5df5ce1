//! Ten classes of procedural images, made from a seed: something to learn where nothing may be
//! downloaded. Not a benchmark; a report that uses it says so.
//!
//! Class: disc, square, triangle, ring, upright cross, frame, lying bars, standing bars, checkers,
//! slanting cross. Place, size, angle, colours, a background slope, clutter and noise are random, so
//! that no single pixel or colour tells a class.

use hanas_models::spec::FeatureMap;
use rand::{Rng, RngExt};

use super::stream::{Purpose, stream};
use super::{Data, ImageSet};

/// Number of classes.
pub const CLASSES: u32 = 10;

/// Half-width of the uniform noise on each pixel, of 255.
const NOISE: i32 = 40;
/// Least distance between the colours of shape and ground, summed over channels, of 765.
const CONTRAST: i32 = 160;
/// A shape's radius, relative to the image's side.
const RADIUS: std::ops::Range<f32> = 0.2..0.42;
/// Largest turn either way, in radians; below pi / 8, so that the two crosses stay apart.
const TURN: f32 = 0.3;
/// Small discs of other colours strewn over the picture.
const CLUTTER: usize = 2;

/// Training and test images of `side` x `side` pixels; the same seed gives the same images.
#[must_use]
pub fn shapes10(train: usize, test: usize, side: u32, seed: u64) -> Data {
    Data { train: images(train, side, seed, 0), test: images(test, side, seed, 1) }
}

fn images(n: usize, side: u32, seed: u64, part: u32) -> ImageSet {
    let shape = FeatureMap::square(3, side);
    let mut set = ImageSet { shape, classes: CLASSES, images: Vec::new(), labels: Vec::new() };
    set.images.reserve_exact(n * shape.len() as usize);
    for i in 0..n {
        let class = (i % CLASSES as usize) as u8;
        set.labels.push(class);
        draw(class, side, &mut stream(seed, Purpose::Shapes, part, i as u64), &mut set.images);
    }
    set
}

type Colour = [i32; 3];

struct Disc {
    x: f32,
    y: f32,
    radius: f32,
    colour: Colour,
}

/// A shape's place, size and turn.
struct Pose {
    x: f32,
    y: f32,
    radius: f32,
    sin: f32,
    cos: f32,
}

fn draw(class: u8, side: u32, rng: &mut impl Rng, pixels: &mut Vec<u8>) {
    let (ground, colour) = colours(rng);
    let slope: [f32; 2] = [rng.random_range(-40.0..40.0), rng.random_range(-40.0..40.0)];
    let radius = rng.random_range(RADIUS);
    let (sin, cos) = rng.random_range(-TURN..TURN).sin_cos();
    let mut place = || rng.random_range(radius..1.0 - radius);
    let pose = Pose { x: place(), y: place(), radius, sin, cos };
    let clutter: [Disc; CLUTTER] = std::array::from_fn(|_| Disc {
        x: rng.random(),
        y: rng.random(),
        radius: rng.random_range(0.03..0.09),
        colour: random_colour(rng),
    });

    let area = (side * side) as usize;
    let start = pixels.len();
    pixels.resize(start + 3 * area, 0);
    for row in 0..side {
        for column in 0..side {
            let (x, y) = ((column as f32 + 0.5) / side as f32, (row as f32 + 0.5) / side as f32);
            let shade = (slope[0] * (x - 0.5) + slope[1] * (y - 0.5)) as i32;
            let mut paint = ground.map(|channel| channel + shade);
            if pose.covers(class, x, y) {
                paint = colour;
            }
            for disc in &clutter {
                if (x - disc.x).hypot(y - disc.y) < disc.radius {
                    paint = disc.colour;
                }
            }
            let place = (row * side + column) as usize;
            for (channel, value) in paint.into_iter().enumerate() {
                let noisy = value + rng.random_range(-NOISE..=NOISE);
                pixels[start + channel * area + place] = noisy.clamp(0, 255) as u8;
            }
        }
    }
}

fn random_colour(rng: &mut impl Rng) -> Colour {
    std::array::from_fn(|_| rng.random_range(0..256))
}

/// Ground and shape, far enough apart to be seen. The shape is the lighter one: with light and dark
/// shapes alike a small net guesses for many epochs before it learns anything.
fn colours(rng: &mut impl Rng) -> (Colour, Colour) {
    let ground = random_colour(rng);
    loop {
        let colour = random_colour(rng);
        let distance: i32 = ground.iter().zip(&colour).map(|(a, b)| (a - b).abs()).sum();
        if distance >= CONTRAST {
            let darker = ground.iter().sum::<i32>() <= colour.iter().sum();
            return if darker { (ground, colour) } else { (colour, ground) };
        }
    }
}

impl Pose {
    fn covers(&self, class: u8, x: f32, y: f32) -> bool {
        let (dx, dy) = ((x - self.x) / self.radius, (y - self.y) / self.radius);
        let (u, v) = (self.cos * dx + self.sin * dy, self.cos * dy - self.sin * dx);
        let (far, square) = (u.hypot(v), u.abs().max(v.abs()));
        let odd = |t: f32| ((t + 1.0) * 2.5).floor() as i32 % 2 == 0;
        let cross = |a: f32, b: f32| a.abs().min(b.abs()) < 0.28 && a.abs().max(b.abs()) < 1.0;
        match class {
            0 => far < 0.9,
            1 => square < 0.8,
            2 => v < 0.75 && v > 2.0 * u.abs() - 1.0,
            3 => (0.55..1.0).contains(&far),
            4 => cross(u, v),
            5 => (0.5..0.85).contains(&square),
            6 => square < 0.9 && odd(v),
            7 => square < 0.9 && odd(u),
            8 => square < 0.9 && (odd(u) == odd(v)),
            _ => cross((u + v) * 0.707, (u - v) * 0.707),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_set_whatever_its_size() {
        let data = shapes10(40, 20, 32, 7);
        assert_eq!(data, shapes10(40, 20, 32, 7));
        assert_ne!(data, shapes10(40, 20, 32, 8));
        assert_ne!(data.train.image(0), data.test.image(0));
        assert_eq!(shapes10(20, 0, 32, 7).train.images, data.train.images[..20 * 3072]);
        assert_eq!(data.train.labels[..12], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]);
    }

    /// No class is told by its mean colour: class means lie within a fraction of the spread.
    #[test]
    fn mean_colour_tells_little() {
        let set = shapes10(2_000, 0, 16, 1).train;
        let mean = |place: usize| {
            let image = set.image(place);
            image.iter().map(|&pixel| f64::from(pixel)).sum::<f64>() / image.len() as f64
        };
        let means: Vec<f64> = (0..set.len()).map(mean).collect();
        let total = means.iter().sum::<f64>() / means.len() as f64;
        let spread = (means.iter().map(|m| (m - total).powi(2)).sum::<f64>() / means.len() as f64).sqrt();
        for class in 0..10 {
            let of_class: f64 = means.iter().skip(class).step_by(10).sum::<f64>() / 200.0;
            assert!(
                (of_class - total).abs() < 0.3 * spread,
                "class {class}: {of_class} of {total}+-{spread}"
            );
        }
    }
}
